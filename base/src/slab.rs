//! A table of values with small numbers as keys; a key carries a generation, so that one of a removed value
//! never finds its successor.

/// Key of a value: index and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// As one number, generation in the high half.
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// Back from `to_u64`.
    pub fn from_u64(n: u64) -> Key {
        Key { index: n as u32, generation: (n >> 32) as u32 }
    }
}

/// The table. Iteration is in index order.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Adds a value.
    pub fn insert(&mut self, value: T) -> Key {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.1 = Some(value);
            return Key { index, generation: slot.0 };
        }
        self.slots.push((0, Some(value)));
        Key { index: self.slots.len() as u32 - 1, generation: 0 }
    }

    /// The value, unless it was removed.
    pub fn get(&self, key: Key) -> Option<&T> {
        let (generation, value) = self.slots.get(key.index as usize)?;
        value.as_ref().filter(|_| *generation == key.generation)
    }

    /// The value, unless it was removed.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (generation, value) = self.slots.get_mut(key.index as usize)?;
        value.as_mut().filter(|_| *generation == key.generation)
    }

    /// Takes the value out; its key is dead from now on.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize).filter(|s| s.0 == key.generation)?;
        let value = slot.1.take()?;
        // Half of the numbers, so that a key as u64 never looks like one of the few reserved high values.
        slot.0 = (slot.0 + 1) & 0x7fff_ffff;
        self.free.push(key.index);
        Some(value)
    }

    /// Values in it.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, (generation, value))| {
            value.as_ref().map(|v| (Key { index: i as u32, generation: *generation }, v))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_keys_find_nothing() {
        let mut s = Slab::default();
        let a = s.insert("a");
        assert_eq!(Key::from_u64(a.to_u64()), a);
        assert_eq!(s.remove(a), Some("a"));
        let b = s.insert("b");
        assert_ne!(a, b);
        assert_eq!(s.remove(a), None);
        assert_eq!((s.get(a), s.get(b), s.len()), (None, Some(&"b"), 1));
    }
}
