//! Every path below a data directory, in one place.

use std::path::{Path, PathBuf};

/// Where a cluster lives when nothing else is said.
pub const DATA_DIR: &str = "/var/lib/pintle";

/// The folder of one cluster on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// `root` should be absolute: daemons change their working directory.
    pub fn new(root: impl Into<PathBuf>) -> Layout {
        Layout { root: root.into() }
    }

    /// The data directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// A file of `pki()`.
    pub fn pki_file(&self, name: &str) -> PathBuf {
        self.pki().join(name)
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }

    /// The store's segments and snapshots.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Sockets, pid files and pinned namespaces: worthless after a reboot.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// A socket of `run()`.
    pub fn socket(&self, daemon: &str) -> PathBuf {
        self.run().join(format!("{daemon}.sock"))
    }

    /// A pinned namespace (`net` or `mnt`) of a node.
    pub fn node_namespace(&self, node: &str, kind: &str) -> PathBuf {
        self.run().join("ns").join(format!("{node}.{kind}"))
    }

    /// Log of a daemon.
    pub fn log(&self, daemon: &str) -> PathBuf {
        self.root.join("log").join(format!("{daemon}.log"))
    }

    /// Image store, shared by the machine's nodes.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// A node's own folder.
    pub fn node(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node)
    }

    /// A node's runtime state.
    pub fn node_runtime(&self, node: &str) -> PathBuf {
        self.node(node).join("runtime")
    }

    /// Settings that a second `up` takes over: service range, number of nodes, port.
    pub fn cluster_file(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// Name that keeps cgroups of clusters on one machine apart: `pintle` for the default folder, else
    /// `pintle-` and eight hexadecimal digits of a hash (FNV-1a) of the path.
    pub fn cgroup_root(&self) -> String {
        if self.root == Path::new(DATA_DIR) {
            return "pintle".into();
        }
        let hash = self
            .root
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
                (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
            });
        format!("pintle-{:08x}", (hash ^ (hash >> 32)) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_roots_differ_by_folder() {
        assert_eq!(Layout::new(DATA_DIR).cgroup_root(), "pintle");
        let (a, b) = (Layout::new("/tmp/a").cgroup_root(), Layout::new("/tmp/b").cgroup_root());
        assert_ne!(a, b);
        assert_eq!(a.len(), "pintle-".len() + 8);
    }
}
