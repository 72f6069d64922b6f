//! Addresses of pods out of the node's pod CIDR. What is taken follows from the labels of the sandboxes on
//! disk, so that nothing is lost or leaked when the kubelet dies at any point.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// The addresses of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Ipam {
    base: u32,
    prefix: u8,
    taken: BTreeSet<u32>,
    // Addresses are handed out in a circle, so that one is not used again soon after it became free.
    last: u32,
}

impl Ipam {
    /// For a CIDR like `10.244.3.0/24`; the text of the error names what is wrong with it.
    pub fn new(cidr: &str) -> Result<Ipam, String> {
        let wrong = || format!("pod CIDR {cidr:?} must be an IPv4 network like 10.244.0.0/24");
        let (address, prefix) = cidr.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if !(8..=29).contains(&prefix) {
            return Err(format!("pod CIDR {cidr:?} must have a prefix from 8 to 29"));
        }
        let base = u32::from(address) & (u32::MAX << (32 - prefix));
        Ok(Ipam { base, prefix, taken: BTreeSet::new(), last: base + 1 })
    }

    /// The bridge's address: the first of the range.
    pub fn gateway(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self.base + 1))
    }

    /// Length of the network's prefix.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    fn end(&self) -> u32 {
        // The last address is the broadcast address.
        self.base + ((1u32 << (32 - self.prefix)) - 1)
    }

    /// Marks an address that a sandbox has.
    pub fn take(&mut self, ip: IpAddr) {
        if let IpAddr::V4(ip) = ip
            && (self.base..self.end()).contains(&u32::from(ip))
        {
            self.taken.insert(u32::from(ip));
            self.last = self.last.max(u32::from(ip));
        }
    }

    /// A free address, now taken; `None` when there is none.
    pub fn allocate(&mut self) -> Option<IpAddr> {
        let (first, end) = (self.base + 2, self.end());
        let after = (self.last + 1).max(first)..end;
        let before = first..(self.last + 1).clamp(first, end);
        let free = after.chain(before).find(|a| !self.taken.contains(a))?;
        self.taken.insert(free);
        self.last = free;
        Some(IpAddr::V4(Ipv4Addr::from(free)))
    }

    /// The sandbox with this address is gone.
    pub fn release(&mut self, ip: IpAddr) {
        if let IpAddr::V4(ip) = ip {
            self.taken.remove(&u32::from(ip));
        }
    }

    /// Addresses in use.
    pub fn in_use(&self) -> usize {
        self.taken.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_once_and_in_a_circle() {
        let mut ipam = Ipam::new("10.244.1.0/29").expect("cidr");
        assert_eq!(ipam.gateway().to_string(), "10.244.1.1");
        let all: Vec<String> =
            std::iter::from_fn(|| ipam.allocate()).map(|a| a.to_string()).collect();
        assert_eq!(all, ["10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6"]);
        ipam.release("10.244.1.3".parse().expect("address"));
        ipam.release("10.244.1.5".parse().expect("address"));
        assert_eq!(ipam.allocate().map(|a| a.to_string()).as_deref(), Some("10.244.1.3"));
        assert_eq!(ipam.allocate().map(|a| a.to_string()).as_deref(), Some("10.244.1.5"));
        assert_eq!(ipam.allocate(), None);
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "x/24", "10.0.0.0/30"] {
            assert!(Ipam::new(bad).is_err(), "{bad}");
        }
    }
}
