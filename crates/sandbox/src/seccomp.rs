//! The system calls that functions may use, as a BPF program for the executor to install.
//!
//! An allow-list: what isn't on it fails with `EPERM`, as it would for want of a capability.
//! Left out are the calls that make namespaces, mounts, traces, modules, keys, BPF programs and
//! `io_uring`s, and such as only an administrator needs.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};
use serde_json::{Value, json};

/// All `CLONE_NEW*` flags that `clone` takes.
const CLONE_NEW_ANY: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32 as u64;

/// Kinds of sockets. Of netlink's many protocols only the one that lists addresses and routes
/// (`getifaddrs`): the others are doors to parts of the kernel that no function needs.
const FAMILIES: [i32; 3] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];
const NETLINK: [(u8, i32); 2] = [(0, libc::AF_NETLINK), (2, libc::NETLINK_ROUTE)];

/// The program as the kernel's `struct sock_filter` array, in bytes.
pub(crate) fn program() -> Result<Vec<u8>, String> {
    with(&[])
}

/// The program of a zygote, which runs no function: what it forks joins other namespaces, and puts
/// the program proper on top.
pub(crate) fn program_of_zygote() -> Result<Vec<u8>, String> {
    with(&[libc::SYS_setns])
}

fn with(more: &[i64]) -> Result<Vec<u8>, String> {
    let mut rules = rules().map_err(|error| error.to_string())?;
    rules.extend(more.iter().map(|call| (*call, Vec::new())));
    let target = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        target,
    );
    let filter = filter.map_err(|error| error.to_string())?;
    let filter = BpfProgram::try_from(filter).map_err(|error| error.to_string())?;
    Ok(clone3_missing()
        .iter()
        .chain(&filter)
        .flat_map(|step| {
            let [code_a, code_b] = step.code.to_ne_bytes();
            let [a, b, c, d] = step.k.to_ne_bytes();
            [code_a, code_b, step.jt, step.jf, a, b, c, d]
        })
        .collect())
}

/// Makes `clone3` look missing. Its flags are behind a pointer, where no filter can see them, and
/// C libraries fall back to `clone` on `ENOSYS` only. Put in front of the filter proper, which
/// loads what it needs itself.
fn clone3_missing() -> [sock_filter; 3] {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    [
        step(LOAD, 0, 0, 0), // offset of seccomp_data.nr
        step(JUMP_EQUAL, 0, 1, libc::SYS_clone3 as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ]
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (_, call) in COMMON.iter().chain(LEGACY) {
        rules.insert(*call, Vec::new());
    }
    let arg = |index, op, value| {
        let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)?;
        SeccompRule::new(vec![condition])
    };
    let no_namespaces = SeccompCmpOp::MaskedEq(CLONE_NEW_ANY);
    rules.insert(libc::SYS_clone, vec![arg(0, no_namespaces, 0)?]);
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        let allowed = FAMILIES.map(|family| arg(0, SeccompCmpOp::Eq, family as u64));
        let mut allowed = allowed.into_iter().collect::<Result<Vec<_>, _>>()?;
        let netlink = NETLINK.map(|(index, value)| {
            SeccompCondition::new(
                index,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Eq,
                value as u64,
            )
        });
        let netlink = netlink.into_iter().collect::<Result<_, _>>()?;
        allowed.push(SeccompRule::new(netlink)?);
        rules.insert(call, allowed);
    }
    // Asking for the execution domain is fine, and so is Linux; others have seen little testing.
    let domains = [0, 0xffff_ffff].map(|domain| arg(0, SeccompCmpOp::Eq, domain));
    rules.insert(
        libc::SYS_personality,
        domains.into_iter().collect::<Result<_, _>>()?,
    );
    // TIOCSTI types into a terminal, TIOCLINUX pastes into one.
    let typing = [libc::TIOCSTI, 0x541c].map(|request| {
        SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, request)
    });
    let not_typing = SeccompRule::new(typing.into_iter().collect::<Result<_, _>>()?)?;
    rules.insert(libc::SYS_ioctl, vec![not_typing]);
    Ok(rules)
}

/// The same as a profile for a container engine, in Docker's JSON. Only `ioctl` has no conditions:
/// they are for terminals, and containers are made without one.
pub(crate) fn profile() -> String {
    let allow = |names: &[&str], args: Value| json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": args});
    let equal =
        |value: u64| json!([{"index": 0, "value": value, "op": "SCMP_CMP_EQ", "valueTwo": 0}]);
    let mut plain: Vec<&str> = COMMON
        .iter()
        .chain(LEGACY)
        .map(|(name, _)| name.trim_start_matches("SYS_"))
        .collect();
    plain.push("ioctl");
    let no_namespaces = json!([{
        "index": 0, "value": CLONE_NEW_ANY, "op": "SCMP_CMP_MASKED_EQ", "valueTwo": 0,
    }]);
    let mut calls = vec![allow(&plain, json!([])), allow(&["clone"], no_namespaces)];
    for family in FAMILIES {
        calls.push(allow(&["socket", "socketpair"], equal(family as u64)));
    }
    let netlink = NETLINK.map(|(index, value)| {
        json!({"index": index, "value": value, "op": "SCMP_CMP_EQ", "valueTwo": 0})
    });
    calls.push(allow(&["socket", "socketpair"], json!(netlink)));
    for domain in [0, 0xffff_ffff] {
        calls.push(allow(&["personality"], equal(domain)));
    }
    calls.push(json!({
        "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS,
    }));
    json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": calls}).to_string()
}

macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

#[rustfmt::skip]
const COMMON: &[(&str, i64)] = calls![
    // files
    SYS_openat SYS_openat2 SYS_close SYS_close_range SYS_read SYS_readv SYS_pread64 SYS_preadv
    SYS_preadv2 SYS_write SYS_writev SYS_pwrite64 SYS_pwritev SYS_pwritev2 SYS_lseek SYS_fstat
    SYS_newfstatat SYS_statx SYS_statfs SYS_fstatfs SYS_faccessat SYS_faccessat2 SYS_readlinkat
    SYS_getdents64 SYS_mkdirat SYS_mknodat SYS_unlinkat SYS_symlinkat SYS_linkat SYS_renameat2
    SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_utimensat SYS_truncate SYS_ftruncate
    SYS_fallocate SYS_fadvise64 SYS_readahead SYS_fsync SYS_fdatasync SYS_sync SYS_syncfs
    SYS_sync_file_range SYS_flock SYS_fcntl SYS_dup SYS_dup3 SYS_pipe2 SYS_sendfile SYS_splice
    SYS_tee SYS_vmsplice SYS_copy_file_range SYS_umask SYS_chdir SYS_fchdir SYS_getcwd
    SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
    SYS_setxattr SYS_lsetxattr SYS_fsetxattr SYS_removexattr SYS_lremovexattr SYS_fremovexattr
    SYS_memfd_create SYS_inotify_init1 SYS_inotify_add_watch SYS_inotify_rm_watch
    SYS_io_setup SYS_io_submit SYS_io_cancel SYS_io_destroy SYS_io_getevents
    // waiting
    SYS_ppoll SYS_pselect6 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2
    SYS_eventfd2 SYS_signalfd4 SYS_timerfd_create SYS_timerfd_settime SYS_timerfd_gettime
    // memory
    SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_brk SYS_msync SYS_mincore
    SYS_mlock SYS_mlock2 SYS_munlock SYS_mlockall SYS_munlockall SYS_membarrier SYS_pkey_alloc
    SYS_pkey_free SYS_pkey_mprotect SYS_get_mempolicy SYS_remap_file_pages
    // processes and threads
    SYS_execve SYS_execveat SYS_exit SYS_exit_group SYS_wait4 SYS_waitid SYS_kill SYS_tkill
    SYS_tgkill SYS_getpid SYS_getppid SYS_gettid SYS_getpgid SYS_setpgid SYS_getsid SYS_setsid
    SYS_set_tid_address SYS_set_robust_list SYS_get_robust_list SYS_futex SYS_rseq
    SYS_futex_waitv SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_getparam
    SYS_sched_setparam SYS_sched_getscheduler SYS_sched_setscheduler SYS_sched_getattr
    SYS_sched_setattr SYS_sched_get_priority_max SYS_sched_get_priority_min
    SYS_sched_rr_get_interval SYS_getpriority SYS_setpriority SYS_ioprio_get SYS_ioprio_set
    SYS_getrlimit SYS_setrlimit SYS_prlimit64 SYS_getrusage SYS_times SYS_prctl SYS_getcpu
    SYS_capget SYS_capset SYS_pidfd_open SYS_pidfd_send_signal SYS_restart_syscall SYS_seccomp
    SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self
    // users
    SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups
    SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setfsuid
    SYS_setfsgid SYS_setgroups
    // signals and time
    SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigtimedwait
    SYS_rt_sigsuspend SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_sigaltstack SYS_clock_gettime
    SYS_clock_getres SYS_clock_nanosleep SYS_gettimeofday SYS_nanosleep SYS_getitimer
    SYS_setitimer SYS_timer_create SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun
    SYS_timer_delete
    // network
    SYS_bind SYS_listen SYS_accept SYS_accept4 SYS_connect SYS_shutdown SYS_getsockname
    SYS_getpeername SYS_getsockopt SYS_setsockopt SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg
    SYS_sendmmsg SYS_recvmmsg
    // between processes of the sandbox
    SYS_shmget SYS_shmat SYS_shmdt SYS_shmctl SYS_semget SYS_semop SYS_semctl SYS_semtimedop
    SYS_msgget SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend
    SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr
    // the rest
    SYS_uname SYS_sysinfo SYS_getrandom
];

/// Calls that newer architectures have dropped.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const LEGACY: &[(&str, i64)] = calls![
    SYS_open SYS_creat SYS_stat SYS_lstat SYS_access SYS_readlink SYS_getdents SYS_mkdir SYS_mknod
    SYS_rmdir SYS_unlink SYS_symlink SYS_link SYS_rename SYS_renameat SYS_chmod SYS_chown
    SYS_lchown SYS_utime SYS_utimes SYS_futimesat SYS_dup2 SYS_pipe SYS_poll SYS_select
    SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_signalfd SYS_inotify_init SYS_fork SYS_vfork
    SYS_getpgrp SYS_pause SYS_alarm SYS_time SYS_arch_prctl
];

#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[(&str, i64)] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_whole_and_small() {
        let program = program().unwrap();
        assert_eq!(program.len() % 8, 0);
        // The kernel takes 4096 steps; and all of it must fit a pipe with room to spare.
        assert!(program.len() < 32 << 10, "{} bytes", program.len());
    }
}
