//! Confines this process to a few directories by Landlock, as far as the kernel has it. Knows no role: who is confined to
//! what is told.

use std::fmt;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope, path_beneath_rules,
};

/// The rights that are asked for: with this version files cannot be moved out, nor cut. Older kernels have some of them.
const RIGHTS: ABI = ABI::V3;

/// What a process may use from then on: all else of the file system is closed to it. What does not exist is left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confinement {
    /// Files, and directories with all below them, that it may read and run programs from.
    pub read: Vec<PathBuf>,
    /// Files, and directories with all below them, that it may write too.
    pub write: Vec<PathBuf>,
}

/// How far the kernel confines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfinementLevel {
    /// As asked.
    Full,
    /// Its version knows some of the rights: what it does not know is free.
    Partial,
    /// Not at all: it has no Landlock, or it is switched off.
    None,
}

impl fmt::Display for ConfinementLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "confined by Landlock",
            Self::Partial => "confined in part: this kernel's Landlock is old",
            Self::None => "not confined: this kernel has no Landlock, or it is switched off",
        })
    }
}

/// Confines the calling thread, and the threads and processes that it starts from then on, for good.
///
/// # Errors
/// The kernel has Landlock and refuses: a sandbox around this process may.
pub fn confine(confinement: &Confinement) -> Result<ConfinementLevel, RulesetError> {
    let Confinement { read, write } = confinement;
    let confined = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(RIGHTS))?
        .create()?
        .add_rules(path_beneath_rules(read, AccessFs::from_read(RIGHTS)))?
        .add_rules(path_beneath_rules(write, AccessFs::from_all(RIGHTS)))?
        .restrict_self()?;
    Ok(match confined.ruleset {
        RulesetStatus::FullyEnforced => ConfinementLevel::Full,
        RulesetStatus::PartiallyEnforced => ConfinementLevel::Partial,
        RulesetStatus::NotEnforced => ConfinementLevel::None,
    })
}

/// Closes the file system for writing, and TCP, and keeps signals and abstract sockets to what is confined so, as far as the
/// kernel can: for the calling thread and all that it starts, for good.
///
/// # Errors
/// As [`confine`].
pub fn close_all_but_reading() -> Result<(), RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_write(RIGHTS))?
        .handle_access(AccessNet::from_all(ABI::V4))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .restrict_self()
        .map(drop)
}

/// How far this kernel confines.
pub fn level() -> ConfinementLevel {
    // a set of rules that is made and dropped confines nobody
    let has = |rights| {
        let asked = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        asked.handle_access(AccessFs::from_all(rights)).and_then(Ruleset::create).is_ok()
    };
    match (has(ABI::V1), has(RIGHTS)) {
        (_, true) => ConfinementLevel::Full,
        (true, false) => ConfinementLevel::Partial,
        (false, false) => ConfinementLevel::None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_only_reads_writes_nothing_and_connects_to_nobody() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        fs::write(&path, "text").expect("written");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
        let address = listener.local_addr().expect("has one");
        let confined = std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                close_all_but_reading().expect("confines");
                let writes = [fs::write(&path, "x"), fs::write(dir.path().join("b"), "x"), fs::remove_file(&path)];
                let connects = std::net::TcpStream::connect(address).is_ok();
                (fs::read_to_string(&path).ok(), writes.map(|done| done.is_ok()), connects)
            });
            confined.join().expect("ends")
        });
        assert_eq!(confined, (Some("text".to_owned()), [false; 3], false));
    }

    #[test]
    fn what_is_not_named_is_closed() {
        assert_eq!(level(), ConfinementLevel::Full, "the kernels that this is tested on have Landlock");
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for name in ["read", "write", "secret"] {
            fs::create_dir(at(name)).expect("made");
            fs::write(at(name).join("a"), name).expect("written");
        }
        symlink(at("secret/a"), at("read/link")).expect("a link");
        let confinement =
            Confinement { read: vec![at("read"), at("absent")], write: vec![at("write"), "/dev/null".into()] };
        // on a thread of its own: it is for good
        let confined = std::thread::scope(|scope| {
            let confined = scope.spawn(|| {
                assert_eq!(confine(&confinement).expect("confines"), ConfinementLevel::Full);
                let reads = ["read/a", "read/link", "write/a", "secret/a"].map(|name| fs::read(at(name)).is_ok());
                let writes = ["read/b", "write/b", "secret/b"].map(|name| fs::write(at(name), "").is_ok());
                let moved = fs::rename(at("write/a"), at("read/c")).is_ok();
                (reads, writes, moved, fs::write("/dev/null", "x").is_ok(), fs::read("/etc/passwd").is_ok())
            });
            confined.join().expect("ends")
        });
        assert_eq!(confined, ([true, false, true, false], [false, true, false], false, true, false));
    }
}
