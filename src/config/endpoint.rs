//! An endpoint's configuration, `config.yaml` in its directory: what it is called, whom it asks for tasks, what those
//! may do, what computes them.
//!
//! What the file says is one type, [`EndpointConfig`] what the endpoint uses: checked, with defaults filled in.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::roots::{RawRoots, RootError};
use super::size::Bytes;
use super::worker_link::{RawWorkerLink, WorkerLink};
use crate::task::names::{EndpointName, Group, TemplateName};
use crate::task::template::{RawTemplate, Template, TemplateError, Templates};

/// The file's name.
pub const FILE: &str = "config.yaml";

/// The largest file that is read: a thousand commands.
const LARGEST: u64 = 1 << 20;

/// Slots for tasks that compute nothing: directories that are made.
const LOGIN_SLOTS: u32 = 4;

/// The most slots of a GPU: more processes than one shares without being slower than one after the other.
const MOST_PER_GPU: u32 = 16;

/// An administrator's reset of a GPU takes about so many seconds.
const GPU_QUIET_S: u32 = 300;

/// The most slots of a computer: more processes than any has processors.
pub const MOST_SLOTS: u32 = 4096;

/// A fifth of the memory is left to others: the operating system, the file cache, other users of a login node.
const LEFT: u64 = 5;

/// Bytes of a slot below which no correlation makes sense: the program itself and a detector's frame.
const LEAST_MEMORY: u64 = 64 << 20;

/// Blocks of the endpoint's own computer.
pub const LOCAL_BLOCKS: u32 = 1;

/// A worker that is there for waiting tasks ends when it had none for so many seconds: Globus Compute's `max_idletime`.
const IDLE_S: u32 = 120;

/// Logs of attempts are kept so many days.
const KEEP_LOGS_DAYS: u32 = 30;

/// The file as it is written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: EndpointName,
    #[serde(default)]
    group: Option<Group>,
    controller: RawController,
    #[serde(default)]
    roots: RawRoots,
    #[serde(default)]
    workers: RawWorkers,
    #[serde(default)]
    blocks: RawBlocks,
    worker_link: Option<RawWorkerLink>,
    #[serde(default)]
    commands: BTreeMap<TemplateName, RawTemplate>,
    #[serde(default)]
    keep_logs_days: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBlocks {
    #[serde(default)]
    min_blocks: Option<u32>,
    #[serde(default)]
    idle_s: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawController {
    url: String,
    #[serde(default)]
    ca: Option<PathBuf>,
    token_file: PathBuf,
    #[serde(default)]
    identity: Option<IdentityFiles>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkers {
    #[serde(default)]
    slots: Option<u32>,
    #[serde(default)]
    login_slots: Option<u32>,
    #[serde(default)]
    threads: Option<NonZeroUsize>,
    #[serde(default)]
    memory: Option<Bytes>,
    #[serde(default)]
    gpus: GpuUse,
    #[serde(default)]
    slots_per_gpu: Option<u32>,
    #[serde(default)]
    gpu_quiet_s: Option<u32>,
}

/// Whether a worker uses the GPUs of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuUse {
    /// Those that it may use, if there are any: its slots are theirs then.
    #[default]
    Auto,
    /// No.
    None,
}

impl GpuUse {
    /// As configurations and command lines have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::None => "none",
        }
    }
}

/// An endpoint's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointConfig {
    /// What people submit to.
    pub name: EndpointName,
    /// Who else may see it and submit to it.
    pub group: Option<Group>,
    /// Whom it asks for tasks.
    pub controller: ControllerAddress,
    /// What tasks may do.
    pub site: Site,
    /// How workers share their nodes; the one on this computer is one of them.
    pub local: WorkerOptions,
    /// When the one on this computer runs.
    pub blocks: BlocksConfig,
    /// Where workers of other computers connect; None: nowhere.
    pub worker_link: Option<WorkerLink>,
    /// Logs of attempts are kept so long.
    pub keep_logs: Duration,
}

/// Where a controller is and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerAddress {
    /// `https://host:port`.
    pub url: String,
    /// The CA of its certificate, a PEM file.
    pub ca: Option<PathBuf>,
    /// The file with the token.
    pub token_file: PathBuf,
    /// What is shown to a controller that asks for a certificate.
    pub identity: Option<IdentityFiles>,
}

/// A certificate and its private key, PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityFiles {
    /// The chain, leaf first.
    pub certificate: PathBuf,
    /// Of the leaf.
    pub key: PathBuf,
}

/// What tasks may do at an endpoint; workers are told.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Where they may read and write.
    pub roots: RawRoots,
    /// Commands that they may run.
    pub commands: BTreeMap<TemplateName, RawTemplate>,
}

/// How a worker shares its node among attempts. What is not said here depends on the node, which the worker measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerOptions {
    /// Attempts that compute, at once.
    pub slots: u32,
    /// Attempts that do not.
    pub login_slots: u32,
    /// Threads of a slot; None: an equal share of the node's processors.
    pub threads: Option<NonZeroUsize>,
    /// Bytes of memory of a slot; None: an equal share of most of the node's free memory.
    pub memory: Option<u64>,
    /// Whether the slots are those of GPUs.
    pub gpus: GpuUse,
    /// Slots of each GPU.
    pub slots_per_gpu: NonZeroU32,
    /// Seconds for which a GPU must have been well before it is tested again after a quarantine.
    pub gpu_quiet_s: u32,
}

/// How many blocks there are. This computer is the only one that there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlocksConfig {
    /// 1 = the worker runs all the time; 0 = it is started when tasks wait.
    pub min_blocks: u32,
    /// A worker that is there for waiting tasks ends when it had none for so long.
    pub idle: Duration,
}

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file.
    #[error("cannot read {}; make one with `speckled endpoint configure`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not what people write.
    #[error("{} has more than {LARGEST} bytes; it is no configuration", path.display())]
    Large {
        /// Which.
        path: PathBuf,
    },
    /// Its text.
    #[error("{}: {reason}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where, and what is wrong.
        reason: String,
    },
    /// A value.
    #[error("{}: {key}: {reason}", path.display())]
    Value {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        key: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A root.
    #[error("{}: roots", path.display())]
    Root {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: RootError,
    },
    /// A command.
    #[error("{}: commands.{name}", path.display())]
    Command {
        /// Which file.
        path: PathBuf,
        /// Which command.
        name: TemplateName,
        /// Why.
        #[source]
        source: TemplateError,
    },
}

impl EndpointConfig {
    /// Reads the configuration in an endpoint's directory.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(directory: &Path) -> Result<Self, ConfigError> {
        let path = directory.join(FILE);
        let unread = |source| ConfigError::Read { path: path.clone(), source };
        if std::fs::metadata(&path).map_err(unread)?.len() > LARGEST {
            return Err(ConfigError::Large { path });
        }
        let text = std::fs::read_to_string(&path).map_err(unread)?;
        Self::parse(&text, &path)
    }

    /// The configuration that a file's text says; paths in it that are relative begin in the file's directory.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        // an error is one line: it says where, and does not show the lines around
        let options = serde_saphyr::options! { with_snippet: false };
        let raw: Raw = serde_saphyr::from_str_with_options(text, options).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            reason: error.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
        })?;
        let Raw { name, group, controller, roots, workers, blocks, worker_link, commands, keep_logs_days } = raw;
        roots.check().map_err(|source| ConfigError::Root { path: path.to_owned(), source })?;
        let site = Site { roots, commands };
        site.templates().map_err(|(name, source)| ConfigError::Command { path: path.to_owned(), name, source })?;
        let beside = |file: PathBuf| path.parent().unwrap_or(Path::new("")).join(file);
        let RawController { url, ca, token_file, identity } = controller;
        let identity =
            identity.map(|files| IdentityFiles { certificate: beside(files.certificate), key: beside(files.key) });
        let controller = ControllerAddress { url, ca: ca.map(beside), token_file: beside(token_file), identity };
        let wrong = |(key, reason)| ConfigError::Value { path: path.to_owned(), key, reason };
        let local = workers.checked().map_err(wrong)?;
        let blocks = blocks.checked().map_err(wrong)?;
        let worker_link = worker_link.map(RawWorkerLink::checked).transpose().map_err(wrong)?;
        let days = keep_logs_days.unwrap_or(KEEP_LOGS_DAYS);
        let keep_logs = Duration::from_secs(u64::from(days) * 24 * 3600);
        Ok(Self { name, group, controller, site, local, blocks, worker_link, keep_logs })
    }
}

impl Site {
    /// The commands, checked.
    ///
    /// # Errors
    /// The first that is wrong, by its name.
    pub fn templates(&self) -> Result<Templates, (TemplateName, TemplateError)> {
        let checked = |(name, raw): (&TemplateName, &RawTemplate)| match Template::try_from(raw.clone()) {
            Ok(template) => Ok((name.clone(), template)),
            Err(error) => Err((name.clone(), error)),
        };
        self.commands.iter().map(checked).collect()
    }
}

impl RawBlocks {
    fn checked(self) -> Result<BlocksConfig, (&'static str, String)> {
        let Self { min_blocks, idle_s } = self;
        let min_blocks = min_blocks.unwrap_or(LOCAL_BLOCKS);
        if min_blocks > LOCAL_BLOCKS {
            let reason = format!("{min_blocks} is too many; this computer is the only block: give 0 or {LOCAL_BLOCKS}");
            return Err(("blocks.min_blocks", reason));
        }
        let idle = Duration::from_secs(u64::from(idle_s.unwrap_or(IDLE_S)));
        Ok(BlocksConfig { min_blocks, idle })
    }
}

impl RawWorkers {
    fn checked(self) -> Result<WorkerOptions, (&'static str, String)> {
        let Self { slots, login_slots, threads, memory, gpus, slots_per_gpu, gpu_quiet_s } = self;
        let usual = WorkerOptions::default();
        let within = |key, count: u32| {
            if count <= MOST_SLOTS {
                Ok(count)
            } else {
                Err((key, format!("{count} is too many; at most {MOST_SLOTS}")))
            }
        };
        let slots = within("workers.slots", slots.unwrap_or(usual.slots))?;
        let login_slots = within("workers.login_slots", login_slots.unwrap_or(usual.login_slots))?;
        if slots == 0 && login_slots == 0 {
            return Err(("workers.slots", "without any slot nothing can run; give one".to_owned()));
        }
        let memory = memory.map(|Bytes(memory)| memory);
        if let Some(memory) = memory.filter(|memory| *memory < LEAST_MEMORY) {
            let reason = format!("{} is too little for a slot; give at least {}", Bytes(memory), Bytes(LEAST_MEMORY));
            return Err(("workers.memory", reason));
        }
        let slots_per_gpu = slots_per_gpu.unwrap_or(usual.slots_per_gpu.get());
        let each = NonZeroU32::new(slots_per_gpu)
            .filter(|slots| slots.get() <= MOST_PER_GPU)
            .ok_or_else(|| ("workers.slots_per_gpu", format!("{slots_per_gpu} is not between 1 and {MOST_PER_GPU}")))?;
        let gpu_quiet_s = gpu_quiet_s.unwrap_or(usual.gpu_quiet_s).max(1);
        Ok(WorkerOptions { slots, login_slots, threads, memory, gpus, slots_per_gpu: each, gpu_quiet_s })
    }
}

impl Default for WorkerOptions {
    /// As where the configuration says nothing.
    fn default() -> Self {
        Self {
            slots: 1,
            login_slots: LOGIN_SLOTS,
            threads: None,
            memory: None,
            gpus: GpuUse::default(),
            slots_per_gpu: NonZeroU32::MIN,
            gpu_quiet_s: GPU_QUIET_S,
        }
    }
}

impl WorkerOptions {
    /// Threads and bytes of memory of each slot, on a node that has so many processors and so many bytes free.
    pub fn share(&self, processors: NonZeroUsize, free: u64) -> (NonZeroUsize, u64) {
        let slots = self.slots.max(1);
        let threads = NonZeroUsize::new(processors.get() / slots as usize).unwrap_or(NonZeroUsize::MIN);
        let memory = ((free - free / LEFT) / u64::from(slots)).max(LEAST_MEMORY);
        (self.threads.unwrap_or(threads), self.memory.unwrap_or(memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "name: polaris\ncontroller: {url: 'https://c:7460', token_file: token}\n";

    fn parse(text: &str) -> Result<EndpointConfig, String> {
        EndpointConfig::parse(text, Path::new("/home/ada/.speckled/polaris/config.yaml"))
            .map_err(|error| crate::task::failure::chain(&error))
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = parse(LEAST).expect("a configuration");
        assert_eq!(config.controller.token_file, Path::new("/home/ada/.speckled/polaris/token"));
        let WorkerOptions { slots, login_slots, threads, memory, gpus, slots_per_gpu, gpu_quiet_s } = config.local;
        assert_eq!((gpus, slots_per_gpu.get(), gpu_quiet_s), (GpuUse::Auto, 1, GPU_QUIET_S));
        assert_eq!((slots, login_slots, threads, memory), (1, LOGIN_SLOTS, None, None));
        assert_eq!(config.worker_link, None);
        assert_eq!(config.site, Site::default());
    }

    fn processors(number: usize) -> NonZeroUsize {
        NonZeroUsize::new(number).expect("not zero")
    }

    #[test]
    fn slots_share_the_node_that_they_are_on() {
        let options =
            |slots: u32| parse(&format!("{LEAST}workers: {{slots: {slots}}}")).expect("a configuration").local;
        assert_eq!(options(1).share(processors(8), 16 << 30), (processors(8), 13_743_895_348));
        assert_eq!(options(4).share(processors(64), 100 << 30), (processors(16), 20 << 30));
        assert_eq!(options(4).share(processors(2), 1 << 20), (processors(1), LEAST_MEMORY));
        assert_eq!(options(0).share(processors(2), 10 << 30).0, processors(2));
    }

    #[test]
    fn the_worker_link_is_off_unless_it_is_configured() {
        let link = |text: &str| parse(&format!("{LEAST}worker_link: {text}")).expect("a configuration").worker_link;
        let unsaid = link("{}").expect("a link");
        assert_eq!((unsaid.listen.to_string(), unsaid.advertise.len()), ("0.0.0.0:0".to_owned(), 0));
        let said = link("{listen: '[::]:7461', advertise: [login1, 10.0.0.1]}").expect("a link");
        assert_eq!(said.listen.to_string(), "[::]:7461");
        assert_eq!(said.advertise.iter().map(ToString::to_string).collect::<Vec<_>>(), ["login1", "10.0.0.1"]);
    }

    #[test]
    fn all_that_can_be_said_is_read() {
        let text = format!(
            "{LEAST}group: 8-id\nroots: {{read: [/data], write: [/data/out]}}\nkeep_logs_days: 7\nblocks: {{min_blocks: 0, idle_s: 9}}\n\
             workers: {{slots: 2, login_slots: 0, threads: 3, memory: 2 GiB, gpus: none, slots_per_gpu: 2, \
             gpu_quiet_s: 9}}\n\
             commands:\n  plot:\n    program: /usr/bin/plot\n    arguments: ['--in={{file}}']\n    time_limit_s: 60\n\
             \x20   paths: {{file: read}}\n"
        );
        let config = parse(&text).expect("a configuration");
        let local = WorkerOptions {
            slots: 2,
            login_slots: 0,
            threads: NonZeroUsize::new(3),
            memory: Some(2 << 30),
            gpus: GpuUse::None,
            slots_per_gpu: NonZeroU32::new(2).expect("not zero"),
            gpu_quiet_s: 9,
        };
        assert_eq!((config.local, config.keep_logs.as_secs()), (local, 7 * 86_400));
        assert_eq!(config.blocks, BlocksConfig { min_blocks: 0, idle: Duration::from_secs(9) });
        assert_eq!(local.share(processors(64), 256 << 30), (processors(3), 2 << 30), "what is said counts");
        assert_eq!(config.site.templates().expect("commands").len(), 1);
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        for (text, words) in [
            ("name: polaris", "controller"),
            (&format!("{LEAST}slots: 3"), "slots"),
            (&format!("{LEAST}workers: {{slot: 3}}"), "slot"),
            (&format!("{LEAST}workers: {{slots: 5000}}"), "workers.slots: 5000 is too many"),
            (&format!("{LEAST}workers: {{slots: 0, login_slots: 0}}"), "without any slot"),
            (&format!("{LEAST}workers: {{memory: 1 MiB}}"), "workers.memory: 1.0 MiB is too little"),
            (&format!("{LEAST}workers: {{slots_per_gpu: 0}}"), "workers.slots_per_gpu: 0 is not between"),
            (&format!("{LEAST}worker_link: {{port: 1}}"), "unknown field `port`"),
            (&format!("{LEAST}worker_link: {{listen: login1}}"), "worker_link.listen: \"login1\" is no address"),
            (&format!("{LEAST}worker_link: {{advertise: ['a:1']}}"), "worker_link.advertise: \"a:1\" is no host"),
            (&format!("{LEAST}workers: {{gpus: all}}"), "unknown variant `all`, expected one of auto, none at line 3"),
            (&format!("{LEAST}workers: {{memory: much}}"), "no amount of memory"),
            (&format!("{LEAST}roots: {{read: [data]}}"), "roots: data is not an absolute path"),
            (&format!("{LEAST}commands: {{plot: {{program: plot, time_limit_s: 1}}}}"), "commands.plot: program plot"),
            (&LEAST.replace("polaris", "../polaris"), "endpoint name"),
            (&format!("{LEAST}name: crux"), "duplicate"),
            ("- 1\n- 2", "config.yaml"),
            ("name: [", "config.yaml"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(words) && error.contains("config.yaml"), "{text}: {error}");
            assert!(!error.contains('\n') && !error.contains(" | "), "{error}");
        }
    }
}
