//! Packet rules through Debian's `iptables-save` and `iptables-restore --noflush`, legacy or nft variant.
//!
//! These calls wait for a child process (up to seconds with many rules): make them on a worker thread. Rules are
//! those of the calling thread's network namespace. Reference: iptables-restore(8).

use crate::sandbox::{Error, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Which of the two implementations is in use on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// `iptables-legacy`.
    Legacy,
    /// `iptables-nft`.
    Nft,
    /// Whatever `iptables` is.
    Default,
}

/// Folders in which the commands are looked for; PATH is not asked, a daemon's may be empty.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// The commands of one address family.
#[derive(Clone, Debug)]
pub struct Iptables {
    restore: PathBuf,
    save: PathBuf,
    /// Variant that they are.
    pub variant: Variant,
}

fn locate(name: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|f| Path::new(f).join(name)).find(|p| p.exists())
}

impl Iptables {
    /// The given variant's commands.
    pub fn of(variant: Variant, v4: bool) -> Result<Iptables> {
        let base = if v4 { "iptables" } else { "ip6tables" };
        let base = match variant {
            Variant::Legacy => format!("{base}-legacy"),
            Variant::Nft => format!("{base}-nft"),
            Variant::Default => base.to_owned(),
        };
        let find = |name: String| {
            locate(&name).ok_or_else(|| {
                Error::Unsupported(format!(
                    "command {name} is not in {FOLDERS:?}: install it (apt-get install iptables)"
                ))
            })
        };
        let restore = find(format!("{base}-restore"))?;
        let save = find(format!("{base}-save"))?;
        Ok(Iptables { restore, save, variant })
    }

    /// The variant whose tables hold chains with one of these prefixes; else the one with more rules (others on
    /// this machine use it); else what `iptables` is.
    pub fn detect(v4: bool, prefixes: &[&str]) -> Result<Iptables> {
        let mut rules = Vec::new();
        for variant in [Variant::Nft, Variant::Legacy] {
            let Ok(candidate) = Iptables::of(variant, v4) else { continue };
            let text = candidate.save()?;
            let ours = |l: &str| {
                let chain = l.strip_prefix(':').unwrap_or("");
                prefixes.iter().any(|p| chain.starts_with(p))
            };
            if text.lines().any(ours) {
                return Ok(candidate);
            }
            rules.push((text.lines().filter(|l| l.starts_with("-A ")).count(), candidate));
        }
        let most = rules.into_iter().max_by_key(|(n, _)| *n).filter(|(n, _)| *n > 0);
        match most {
            Some((_, candidate)) => Ok(candidate),
            None => Iptables::of(Variant::Default, v4),
        }
    }

    /// All tables as `iptables-save` prints them.
    pub fn save(&self) -> Result<String> {
        let output = command(&self.save)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| Error::Io(format!("cannot run {}", self.save.display()), e))?;
        if !output.status.success() {
            return Err(Error::Invalid(failure(&self.save, &output, "")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies a rule text, each table in one transaction; chains that it does not name stay as they are.
    pub fn restore(&self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let name = self.restore.display();
        let mut child = command(&self.restore)
            // Another program may be changing rules: wait for its lock, seconds.
            .args(["--noflush", "--wait", "5"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Error::Io(format!("cannot run {name}"), e))?;
        let written = child.stdin.take().map(|mut pipe| pipe.write_all(text.as_bytes()));
        let output = child
            .wait_with_output()
            .map_err(|e| Error::Io(format!("cannot wait for {name}"), e))?;
        if !output.status.success() {
            return Err(Error::Invalid(failure(&self.restore, &output, text)));
        }
        match written {
            Some(Err(e)) => Err(Error::Io(format!("cannot write to {name}"), e)),
            _ => Ok(()),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "iptables-restore is the default backend for packet rules by design"
)]
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", FOLDERS.join(":")).current_dir("/");
    command
}

/// What a failed command said, with the line of the text that it names.
fn failure(program: &Path, output: &std::process::Output, text: &str) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().replace('\n', "; ");
    let number = said
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|w| !w.is_empty())
        .skip_while(|w| *w != "line")
        .nth(1)
        .and_then(|n| n.parse::<usize>().ok());
    let line = number.and_then(|n| text.lines().nth(n.checked_sub(1)?));
    let at = line.map(|l| format!("; the line is: {l}")).unwrap_or_default();
    format!("{} failed ({}): {said:.1000}{at}", program.display(), output.status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_failure_names_its_line() {
        let output = std::process::Output {
            status: std::process::ExitStatus::from_raw(256),
            stdout: Vec::new(),
            stderr:
                b"iptables-restore v1.8.9 (legacy): unknown option\nError occurred at line: 2\n"
                    .to_vec(),
        };
        let text = failure(Path::new("/x"), &output, "*nat\n-A X --what\nCOMMIT\n");
        assert!(text.ends_with("the line is: -A X --what"), "{text}");
    }
}
