//! Paths to fields as Kubernetes prints them: `spec.containers[0].name`, `metadata.annotations[a/b]`.

use std::fmt;

/// A path being walked: a linked list on the stack, so that descending allocates nothing. It is written out
/// only when an error needs it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Step<'a> {
    #[default]
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The empty path.
    pub const fn root() -> Path<'a> {
        Path { parent: None, step: Step::Root }
    }

    /// `self.name`; `name` may itself hold dots (`spec.containers`).
    pub const fn field(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    /// `self[index]`.
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// `self[key]`.
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Key(key) }
    }

    /// True for the path of the object itself.
    pub fn is_root(&self) -> bool {
        matches!(self.step, Step::Root)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The depth of a path is bounded by limits::DEPTH_MAX, as is all input.
        if let Some(parent) = self.parent {
            write!(f, "{parent}")?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) => match self.parent {
                Some(p) if !p.is_root() => write!(f, ".{name}"),
                _ => f.write_str(name),
            },
            Step::Index(i) => write!(f, "[{i}]"),
            Step::Key(k) => write!(f, "[{k}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_kubernetes_does() {
        let root = Path::root();
        let spec = root.field("spec");
        let containers = spec.field("containers");
        let first = containers.index(0);
        assert_eq!(first.field("name").to_string(), "spec.containers[0].name");
        assert_eq!(root.field("data").key("a b").to_string(), "data[a b]");
        assert_eq!(root.to_string(), "");
    }
}
