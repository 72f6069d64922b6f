//! Every step of every plan made to fail in turn, over a kernel that only remembers: nothing may be left.

use super::*;
use crate::cgroup::Tree;
use crate::ops;
use crate::sandbox::{
    ContainerConfig, Error, Mount, Namespace, Resources, Runtime, RuntimeConfig, SandboxConfig,
    Seccomp, User,
};
use crate::state::Layout;
use std::collections::BTreeSet;

/// What there is, and when to fail.
#[derive(Default)]
struct Fake {
    there: BTreeSet<String>,
    fds: BTreeSet<u32>,
    next_fd: u32,
    calls: u32,
    /// The call that fails; undo is not counted.
    fail_at: Option<u32>,
    /// Undo that fails too.
    undo_fails: Option<String>,
    undoing: bool,
}

impl Fake {
    fn call(&mut self, what: &str) -> Result<()> {
        if self.undoing {
            return Ok(());
        }
        self.calls += 1;
        if Some(self.calls - 1) == self.fail_at {
            self.undoing = true;
            return Err(Error::Invalid(format!("made to fail: {what}")));
        }
        Ok(())
    }

    fn make(&mut self, kind: &str, path: &Path) -> Result<()> {
        self.call(kind)?;
        assert!(
            self.there.insert(format!("{kind} {}", path.display())),
            "twice: {}",
            path.display()
        );
        Ok(())
    }

    fn gone(&mut self, kind: &str, path: &Path) -> Result<()> {
        let key = format!("{kind} {}", path.display());
        if self.undo_fails.as_ref() == Some(&key) {
            return Err(Error::Invalid("undo fails".into()));
        }
        self.there.remove(&key);
        Ok(())
    }

    fn fd(&mut self) -> u32 {
        self.next_fd += 1;
        self.fds.insert(self.next_fd);
        self.next_fd
    }
}

impl Kernel for Fake {
    type Fd = u32;

    fn make_dir(&mut self, path: &Path) -> Result<()> {
        self.make("dir", path)
    }
    fn remove_dir(&mut self, path: &Path) -> Result<()> {
        let inside = format!("file {}/", path.display());
        self.there.retain(|k| !k.starts_with(&inside));
        self.gone("dir", path)
    }
    fn write_file(&mut self, path: &Path, _: &[u8]) -> Result<()> {
        let dir = path.parent().expect("a folder").display().to_string();
        assert!(self.there.contains(&format!("dir {dir}")), "{dir} is not made yet");
        self.make("file", path)
    }
    fn make_cgroup(&mut self, path: &Path) -> Result<()> {
        self.make("cgroup", path)
    }
    fn remove_cgroup(&mut self, path: &Path) -> Result<()> {
        // Kills what is in it.
        let process = format!("process {}", path.display());
        self.there.retain(|k| !k.starts_with(&process));
        self.gone("cgroup", path)
    }
    fn set_limits(&mut self, path: &Path, _: &[(&'static str, String)]) -> Result<()> {
        assert!(self.there.contains(&format!("cgroup {}", path.display())));
        self.call("limits")
    }
    fn restrict_devices(&mut self, path: &Path, _: &[u64]) -> Result<()> {
        assert!(self.there.contains(&format!("cgroup {}", path.display())));
        self.call("devices")
    }
    fn mount_shm(&mut self, path: &Path, _: u64) -> Result<()> {
        self.make("mount", path)
    }
    fn unmount(&mut self, path: &Path) -> Result<()> {
        self.gone("mount", path)
    }
    fn overlay(&mut self, _: &[PathBuf], upper: &Path, work: &Path) -> Result<u32> {
        for dir in [upper, work] {
            assert!(self.there.contains(&format!("dir {}", dir.display())));
        }
        self.call("overlay")?;
        Ok(self.fd())
    }
    fn open_tree(&mut self, _: &Path, _: &TreeOptions) -> Result<u32> {
        self.call("tree")?;
        Ok(self.fd())
    }
    fn terminal(&mut self) -> Result<[u32; 3]> {
        self.call("terminal")?;
        Ok([self.fd(), self.fd(), self.fd()])
    }
    fn launch_shim(&mut self, step: &Step) -> Result<()> {
        let Step::LaunchShim { cgroup, pins, .. } = step else { panic!() };
        assert!(self.there.contains(&format!("cgroup {}", cgroup.display())));
        // One that fails has got half of its way.
        self.there.insert(format!("process {}", cgroup.display()));
        self.there.insert(format!("mount {}", pins[0].display()));
        self.call("shim")?;
        self.there.insert(format!("mount {}", pins[1].display()));
        Ok(())
    }
    fn ask(&mut self, _: &Path, request: &Request, fds: &[u32]) -> Result<Reply> {
        match request {
            Request::Create(new) => {
                assert!(fds.iter().all(|fd| self.fds.contains(fd)));
                // Done, and the answer lost.
                self.there.insert(format!("process {}", new.cgroup.display()));
                self.call("create")
                    .map_err(|e| Error::Io(e.to_string(), std::io::ErrorKind::TimedOut.into()))?;
            }
            Request::Remove { .. } => self.there.retain(|k| !k.starts_with("process ")),
            _ => self.call("ask")?,
        }
        Ok(Reply::Done)
    }
    fn close(&mut self, fds: Vec<u32>) {
        for fd in fds {
            assert!(self.fds.remove(&fd), "closed twice");
        }
    }
}

fn runtime() -> Runtime {
    let config = RuntimeConfig {
        root: "/r".into(),
        images: "/i".into(),
        shim_binary: "/pintle".into(),
        cgroup_parent: "p".into(),
    };
    let controllers = vec!["cpu".into(), "memory".into(), "pids".into()];
    let trash = crate::trash::Trash::new(&config.root);
    Runtime { config, tree: Tree { mount: "/cg".into(), controllers }, trash }
}

fn sandbox_plan() -> Vec<Step> {
    let config = SandboxConfig {
        id: "s".into(),
        hostname: "h".into(),
        net: Namespace::New,
        ipc: Namespace::New,
        pid: Namespace::New,
        share_pid: true,
        cgroup: "pod".into(),
        resources: Resources { memory_max: Some(1), ..Resources::default() },
        sysctls: Default::default(),
        labels: Default::default(),
    };
    let layout = Layout { dir: "/r/s".into() };
    ops::sandbox::plan(&config, &runtime(), &layout, Path::new("/cg/p/pod")).expect("plan")
}

fn container_plan() -> Vec<Step> {
    let mount = |d: &str| Mount {
        source: "/data".into(),
        destination: d.into(),
        read_only: true,
        tmpfs_bytes: None,
        propagation: Some("rslave".into()),
    };
    let config = ContainerConfig {
        id: "c".into(),
        image: "i".into(),
        command: vec!["x".into()],
        args: Vec::new(),
        env: Vec::new(),
        working_dir: String::new(),
        user: User::default(),
        mounts: vec![mount("/a"), Mount { tmpfs_bytes: Some(0), ..mount("/t") }, mount("/b")],
        resources: Resources::default(),
        privileged: false,
        cap_add: Vec::new(),
        cap_drop: Vec::new(),
        allow_privilege_escalation: false,
        read_only_root: false,
        seccomp: Seccomp::RuntimeDefault,
        unmasked_proc: false,
        stdin: false,
        stdin_once: false,
        tty: true,
        log_path: PathBuf::new(),
        log_bytes_max: 0,
        log_files_max: 0,
        termination_message_path: String::new(),
        labels: Default::default(),
    };
    ops::container::whole_plan(&config, &runtime()).expect("plan")
}

fn walk(plan: Vec<Step>, kernel: &mut Fake) -> Result<()> {
    let mut walk = Walk::new(kernel);
    walk.take(plan)?;
    walk.finish();
    Ok(())
}

fn check(plan: &dyn Fn() -> Vec<Step>, at_least: u32) {
    let mut kernel = Fake::default();
    walk(plan(), &mut kernel).expect("it works");
    assert!(kernel.fds.is_empty(), "descriptors are left open");
    assert!(kernel.there.iter().any(|k| k.starts_with("process")));
    assert!(kernel.calls >= at_least, "{}", kernel.calls);
    for fail_at in 0..kernel.calls {
        let mut kernel = Fake { fail_at: Some(fail_at), ..Fake::default() };
        let e = walk(plan(), &mut kernel).expect_err("it fails");
        assert!(e.to_string().starts_with("made to fail"), "{e}");
        assert_eq!(kernel.there, BTreeSet::new(), "left after call {fail_at} failed ({e})");
        assert!(kernel.fds.is_empty(), "descriptors are left after call {fail_at}");
    }
}

#[test]
fn a_sandbox_leaves_nothing_whatever_fails() {
    check(&sandbox_plan, 8);
}

#[test]
fn a_container_leaves_nothing_whatever_fails() {
    check(&container_plan, 12);
}

#[test]
fn an_undo_that_fails_hinders_no_other() {
    let mut whole = Fake::default();
    walk(container_plan(), &mut whole).expect("it works");
    for stuck in whole.there.iter().filter(|k| k.starts_with("cgroup ")) {
        let fail_at = Some(whole.calls - 1);
        let mut kernel = Fake { fail_at, undo_fails: Some(stuck.clone()), ..Fake::default() };
        let e = walk(container_plan(), &mut kernel).expect_err("it fails");
        assert!(e.to_string().starts_with("made to fail"), "the first error is the one told: {e}");
        assert_eq!(kernel.there.iter().collect::<Vec<_>>(), [stuck]);
    }
}

#[test]
fn a_decision_between_steps_undoes_too() {
    let mut kernel = Fake::default();
    let mut walk = Walk::new(&mut kernel);
    let mut plan = container_plan();
    plan.pop();
    walk.take(plan).expect("it works");
    let r: Result<()> = walk.check(Err(Error::Invalid("no such user".into())));
    assert!(r.is_err());
    drop(walk);
    assert!(kernel.there.is_empty() && kernel.fds.is_empty());
}
