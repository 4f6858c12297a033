//! What a container is made of: composed here, without asking anybody.

use std::collections::HashMap;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, HealthConfig, HostConfig, HostConfigLogConfig,
    ImageConfig, Mount, MountType, ResourcesUlimits, SystemInfo, SystemInfoCgroupDriverEnum,
};

use super::DockerConfig;
use crate::cgroup::{CPU_PERIOD_US, Limits};
use crate::network::RESOLVERS;
use crate::{Kind, Shim};

/// Where the function's code is inside.
pub(super) const APP: &str = "/app";
/// Where the socket and the shim are inside.
const RUN: &str = "/run/serverledge";
/// The label with which everything of ours is marked; its value tells the node.
pub(super) const LABEL: &str = "serverledge.node";
/// Users in the range; ids of sandboxes are taken modulo this.
const USERS: u64 = 65_536;
/// A user whom also an engine has that maps users of containers to few of the machine.
const NOBODY: u32 = 65_534;
/// Less than this the engine refuses, MiB.
const MEMORY_MIN_MB: u64 = 6;
/// Longest name of an image: more than any registry takes.
const IMAGE_NAME_MAX: usize = 512;

/// Whether this can be the name of an image: `None`, or what is wrong with it.
pub fn check_image(name: &str) -> Option<&'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    match name {
        "" => Some("is empty"),
        name if name.len() > IMAGE_NAME_MAX => Some("is too long"),
        name if !name.chars().all(allowed) => Some("has a character that no image's name has"),
        // It becomes part of a path.
        name if name.split('/').any(|part| matches!(part, "" | "." | "..")) => {
            Some("has an empty part, or one of dots")
        }
        _ => None,
    }
}

/// What the engine can do, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abilities {
    /// Whether any user may be chosen.
    own_users: bool,
    seccomp: bool,
    /// Whether limits that were set past the engine stay as they are: systemd sets its own again
    /// whenever it reads its settings.
    pub(super) keeps_limits: bool,
}

impl Abilities {
    /// Reads them from the engine's description and warns of what is missing.
    pub(super) fn of(info: &SystemInfo) -> Self {
        let options = info.security_options.as_deref().unwrap_or_default();
        let has = |name: &str| {
            let named = format!("name={name}");
            options
                .iter()
                .any(|option| option.split(',').any(|part| part == named))
        };
        let limits = [
            ("memory", info.memory_limit),
            ("swap", info.swap_limit),
            ("cpu", info.cpu_cfs_quota),
            ("pids", info.pids_limit),
            ("system calls", Some(has("seccomp"))),
        ];
        for (limit, _) in limits.iter().filter(|(_, there)| *there == Some(false)) {
            tracing::warn!(limit, "the Docker engine can't limit this on this machine");
        }
        Abilities {
            own_users: !has("userns") && !has("rootless"),
            seccomp: has("seccomp"),
            keeps_limits: info.cgroup_driver == Some(SystemInfoCgroupDriverEnum::CGROUPFS),
        }
    }
}

/// A container to be made.
pub(super) struct Plan<'a> {
    pub(super) id: u64,
    pub(super) kind: &'a Kind,
    /// The sandbox's own directory, with the socket and the shim.
    pub(super) run_dir: &'a Path,
    /// What is seen as `/app`, if anything.
    pub(super) app: Option<&'a Path>,
    pub(super) limits: Limits,
    /// Value of the label.
    pub(super) node: &'a str,
    pub(super) first_user: u64,
}

/// What is hidden of `/proc` and `/sys`: what any engine hides by itself, as naming one replaces
/// them all, and `pressure`, where every writer makes the kernel watch something for it.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/pressure",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The engine's order for a container; `None` if the image has no command, where one is needed.
pub(super) fn order(
    plan: &Plan<'_>,
    image: &str,
    of_image: &ImageConfig,
    config: &DockerConfig,
    abilities: Abilities,
) -> Option<ContainerCreateBody> {
    let user = match of_image.user.as_deref().unwrap_or_default() {
        "" => Some(own_user(plan, config, abilities)),
        // It knows what its files need. Root has no capabilities either.
        _ => None,
    };
    let kind = plan.kind;
    let mut env = vec!["HOME=/tmp".to_owned()];
    let socket = format!("{RUN}/node.sock");
    env.extend(crate::executor::variables(&socket, &kind.preload));
    match kind.shim {
        // The image's own program, which has the image's environment.
        Shim::Bridge => {
            let words = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
            let (entrypoint, command) = (words(&of_image.entrypoint), words(&of_image.cmd));
            let working_dir = of_image.working_dir.as_deref().unwrap_or_default();
            let command = crate::executor::image_command(&entrypoint, &command, working_dir);
            env.extend(command?);
        }
        _ => env.extend(["LANG=C.UTF-8".to_owned(), "USER=function".to_owned()]),
    }
    let shim_file = Path::new(RUN).join(kind.shim.file_name());
    let argv = crate::executor::command(&kind.interpreter, kind.shim, &shim_file);
    let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
    Some(ContainerCreateBody {
        image: Some(image.to_owned()),
        hostname: Some("sandbox".to_owned()),
        user,
        env: Some(env),
        entrypoint: Some(argv.into_iter().map(text).collect()),
        working_dir: Some("/".to_owned()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        // Processes of nobody's, and not needed: the node knows how its sandboxes are.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        labels: Some(HashMap::from([(LABEL.to_owned(), plan.node.to_owned())])),
        host_config: Some(host_config(plan, of_image, config, abilities)),
        ..ContainerCreateBody::default()
    })
}

fn host_config(
    plan: &Plan<'_>,
    of_image: &ImageConfig,
    config: &DockerConfig,
    abilities: Abilities,
) -> HostConfig {
    let limits = update(&plan.limits);
    let mut security = vec!["no-new-privileges".to_owned()];
    if abilities.seccomp {
        security.push(format!("seccomp={}", crate::seccomp::profile()));
    }
    HostConfig {
        memory: limits.memory,
        memory_swap: limits.memory_swap,
        cpu_period: limits.cpu_period,
        cpu_quota: limits.cpu_quota,
        pids_limit: limits.pids_limit,
        ulimits: Some(ulimits(config)),
        // When the machine runs out of memory, functions go before anything else.
        oom_score_adj: Some(500),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(security),
        privileged: Some(false),
        readonly_rootfs: Some(true),
        mounts: Some(mounts(plan)),
        tmpfs: Some(tmpfs(of_image, config)),
        shm_size: i64::try_from(config.tmp_mb.max(1) << 20).ok(),
        ipc_mode: Some("private".to_owned()),
        masked_paths: Some(MASKED.map(str::to_owned).into()),
        readonly_paths: Some(READ_ONLY.map(str::to_owned).into()),
        // A way out is made in it once it runs, as for the built-in sandbox.
        network_mode: Some("none".to_owned()),
        dns: Some(RESOLVERS.map(|address| address.to_string()).into()),
        // Not the machine's, which tell where it is.
        dns_search: Some(vec![".".to_owned()]),
        // What it prints is read as it comes; on disk it would have no limit.
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".to_owned()),
            config: None,
        }),
        ..HostConfig::default()
    }
}

/// Limits as the engine takes them, at the creation and later.
pub(super) fn update(limits: &Limits) -> ContainerUpdateBody {
    let memory = (limits.memory_mb > 0)
        .then(|| limits.memory_mb.max(MEMORY_MIN_MB) << 20)
        .and_then(|bytes| i64::try_from(bytes).ok());
    let cpu = limits.cpu > 0.0;
    ContainerUpdateBody {
        memory,
        // Memory and swap together: no swap.
        memory_swap: memory,
        cpu_period: cpu.then_some(CPU_PERIOD_US as i64),
        cpu_quota: cpu.then(|| (limits.cpu * CPU_PERIOD_US).max(1000.0) as i64),
        pids_limit: Some(i64::from(limits.processes)),
        ..ContainerUpdateBody::default()
    }
}

fn own_user(plan: &Plan<'_>, config: &DockerConfig, abilities: Abilities) -> String {
    let user = match abilities.own_users {
        true => config.uid_base + (plan.first_user.wrapping_add(plan.id) % USERS) as u32,
        false => NOBODY,
    };
    format!("{user}:{user}")
}

fn ulimits(config: &DockerConfig) -> Vec<ResourcesUlimits> {
    let file_max = i64::try_from(config.tmp_mb.max(1) << 20).unwrap_or(i64::MAX);
    let limits = [
        ("core", 0, 0),
        ("nofile", 1024, 4096),
        ("fsize", file_max, file_max),
    ];
    let limit = |(name, soft, hard): (&str, i64, i64)| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(soft),
        hard: Some(hard),
    };
    limits.map(limit).into()
}

fn mounts(plan: &Plan<'_>) -> Vec<Mount> {
    let bind = |source: &Path, target: &str| Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        ..Mount::default()
    };
    let mut mounts = vec![bind(plan.run_dir, RUN)];
    mounts.extend(plan.app.map(|app| bind(app, APP)));
    mounts
}

/// `/tmp`, and what the image declares to be a volume: that would be a directory on the machine's
/// disk, without a limit.
fn tmpfs(of_image: &ImageConfig, config: &DockerConfig) -> HashMap<String, String> {
    let size = config.tmp_mb.max(1);
    let options = format!("rw,nosuid,nodev,exec,size={size}m,nr_inodes=65536,mode=1777");
    let volumes = of_image.volumes.iter().flatten();
    volumes
        .map(|volume| volume.trim_end_matches('/').to_owned())
        .filter(|volume| !volume.is_empty() && volume != APP)
        .chain(["/tmp".to_owned()])
        .map(|path| (path, options.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_are_checked() {
        for name in [
            "python",
            "a/b:latest",
            "localhost:5000/x/y@sha256:0123",
            "sha256:0f",
        ] {
            assert_eq!(check_image(name), None, "{name}");
        }
        for name in [
            "",
            "../containers",
            "a/../b",
            "a//b",
            "a b",
            "a?x=1",
            "a%2e",
            &"x".repeat(513),
        ] {
            assert!(check_image(name).is_some(), "{name}");
        }
    }

    fn made(of_image: &ImageConfig, shim: Shim) -> Option<ContainerCreateBody> {
        let kind = Kind {
            interpreter: "python3".into(),
            shim,
            image: None,
            preload: Vec::new(),
        };
        let plan = Plan {
            id: 7,
            kind: &kind,
            run_dir: Path::new("/state/7"),
            app: Some(Path::new("/code")),
            limits: Limits {
                memory_mb: 1,
                cpu: 0.5,
                processes: 65,
            },
            node: "n",
            first_user: u64::MAX,
        };
        let abilities = Abilities {
            own_users: true,
            seccomp: true,
            keeps_limits: true,
        };
        let config = DockerConfig::new("/state");
        order(&plan, "image", of_image, &config, abilities)
    }

    #[test]
    fn containers_are_closed_and_limited() {
        let of_image = ImageConfig {
            volumes: Some(vec!["/data/".to_owned()]),
            cmd: Some(vec!["serve".to_owned()]),
            ..ImageConfig::default()
        };
        let body = made(&of_image, Shim::Bridge).unwrap();
        assert_eq!(body.user.as_deref(), Some("1879048198:1879048198"));
        let bridge = ["/run/serverledge/executor", "bridge"].map(str::to_owned);
        assert_eq!(body.entrypoint, Some(bridge.into()));
        let command = "SERVERLEDGE_COMMAND=[\"serve\"]".to_owned();
        assert!(body.env.unwrap().contains(&command));
        assert!(made(&ImageConfig::default(), Shim::Bridge).is_none());
        let host = body.host_config.unwrap();
        assert_eq!(host.memory, Some(6 << 20));
        assert_eq!(host.memory_swap, host.memory);
        assert_eq!(
            (host.cpu_period, host.cpu_quota),
            (Some(50_000), Some(25_000))
        );
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        let tmpfs = host.tmpfs.unwrap();
        assert!(
            tmpfs.contains_key("/data") && tmpfs.contains_key("/tmp"),
            "{tmpfs:?}"
        );
        assert_eq!(host.mounts.unwrap().len(), 2);
    }

    #[test]
    fn a_user_that_the_image_names_is_kept() {
        let of_image = ImageConfig {
            user: Some("app".to_owned()),
            ..ImageConfig::default()
        };
        let body = made(&of_image, Shim::Python).unwrap();
        assert_eq!(body.user, None);
        assert_eq!(
            body.entrypoint.unwrap().last().unwrap(),
            "/run/serverledge/shim.py"
        );
    }
}
