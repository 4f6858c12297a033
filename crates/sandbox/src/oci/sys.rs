//! The few system calls for which `rustix` has no safe wrapper.

use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

pub(crate) const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub(crate) const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(crate) const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(crate) const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// The name of a sandbox's network device.
const TUNNEL: &CStr = c"egress";

/// `libc` has it in a type that is too small.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which process [`clone3`] has returned in.
pub(crate) enum Fork {
    Parent { pid: i32, pidfd: OwnedFd },
    Child,
}

/// Forks into new namespaces. Only for a process with one thread: the child is then a full copy in
/// which everything may be called.
pub(crate) fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    clone(namespaces, libc::SIGCHLD, cgroup)
}

/// The same, but the new process is this one's sibling and not its child.
pub(crate) fn clone3_sibling(namespaces: u64) -> io::Result<Fork> {
    // It tells of its end as this process does, and no other signal may be named.
    clone(namespaces | libc::CLONE_PARENT as u64, 0, None)
}

fn clone(flags: u64, signal: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid `clone_args`, of integers only.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = signal as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child gets a copy of this memory and goes on on its own copy
    // of this stack, so nothing is shared; `args` lives through the call and is of the size given.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent {
            pid: pid as i32,
            // SAFETY: the kernel has just put a new descriptor there, which is nobody else's.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Adds `MOUNT_ATTR_*` flags to a mount and, if asked, to all below it.
pub(crate) fn mount_setattr(path: &Path, attributes: u64, recursive: bool) -> io::Result<()> {
    let mut bytes = path.as_os_str().as_bytes().to_vec();
    bytes.push(0);
    let path = CStr::from_bytes_with_nul(&bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    mount_setattr_at(libc::AT_FDCWD, path, flags, attributes)
}

/// The same for the one mount that a descriptor stands for.
pub(crate) fn mount_setattr_fd(mount: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    mount_setattr_at(mount.as_raw_fd(), c"", libc::AT_EMPTY_PATH, attributes)
}

fn mount_setattr_at(
    dir: RawFd,
    path: &CStr,
    flags: libc::c_int,
    attributes: u64,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: path and attributes live through the call; the size is theirs.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
}

/// Switches the loopback interface of this network namespace on: a new one has it off.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which lives through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } as i64)
}

/// Gives this process a network namespace of its own. Only for a process with one thread.
pub(crate) fn leave_network() -> io::Result<()> {
    // SAFETY: takes flags only, and a network namespace changes nothing of memory or descriptors.
    check(i64::from(unsafe { libc::unshare(libc::CLONE_NEWNET) }))
}

/// Makes the network device through which this network namespace reaches the world, and returns the
/// end from which its packets are read. All traffic that isn't for the namespace itself goes there.
pub(crate) fn make_tunnel(address: Ipv4Addr, mtu: usize) -> io::Result<OwnedFd> {
    // SAFETY: all-zero is a valid `ifreq`, and so it is in all that follow.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(TUNNEL.to_bytes()) {
        *to = *from as libc::c_char;
    }
    let named = request;
    let device = open_tunnels()?;
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    ioctl(&device, libc::TUNSETIFF as libc::Ioctl, &raw const request)?;

    let family = rustix::net::AddressFamily::INET;
    let socket = rustix::net::socket(family, rustix::net::SocketType::DGRAM, None)?;
    let mut request = named;
    request.ifr_ifru.ifru_addr = socket_address(address);
    ioctl(
        &socket,
        libc::SIOCSIFADDR as libc::Ioctl,
        &raw const request,
    )?;
    let mut request = named;
    request.ifr_ifru.ifru_mtu = mtu as libc::c_int;
    ioctl(&socket, libc::SIOCSIFMTU as libc::Ioctl, &raw const request)?;
    let mut request = named;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    ioctl(
        &socket,
        libc::SIOCSIFFLAGS as libc::Ioctl,
        &raw const request,
    )?;

    // SAFETY: all-zero is a valid `rtentry`: no device, no gateway.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_flags = libc::RTF_UP;
    route.rt_dev = TUNNEL.as_ptr().cast_mut();
    ioctl(&socket, libc::SIOCADDRT as libc::Ioctl, &raw const route)?;
    Ok(device)
}

/// Lets a device outlive this descriptor: it goes with its network namespace then.
pub(crate) fn keep_tunnel(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes an integer.
    check(i64::from(unsafe {
        libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST as libc::Ioctl, 1)
    }))
}

/// Opens what such devices are made from.
pub(crate) fn open_tunnels() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/dev/net/tun", flags, Mode::empty())?)
}

/// An `ioctl` that reads the structure which belongs to it.
fn ioctl<T>(fd: &OwnedFd, request: libc::Ioctl, argument: *const T) -> io::Result<()> {
    // SAFETY: the callers above give each request the structure it reads, which lives through it.
    check(i64::from(unsafe {
        libc::ioctl(fd.as_raw_fd(), request, argument)
    }))
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    // SAFETY: all-zero is a valid `sockaddr`.
    let mut bytes: libc::sockaddr = unsafe { std::mem::zeroed() };
    bytes.sa_family = libc::AF_INET as libc::sa_family_t;
    // Behind the port, which is zero.
    for (to, from) in bytes.sa_data[2..].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    bytes
}

/// A `prctl` of integers only.
pub(crate) fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here (PDEATHSIG, CAPBSET_DROP, KEEPCAPS) take integers.
    check(unsafe { libc::prctl(option, value, 0, 0, 0) } as i64)
}

/// Becomes this user, with this group and no others, for good. Root would keep its capabilities.
pub(crate) fn become_user(uid: u32, gid: u32, drop_groups: bool) -> io::Result<()> {
    // SAFETY: these take integers, and no pointer as the list is empty.
    unsafe {
        if drop_groups {
            check(libc::setgroups(0, std::ptr::null()) as i64)?;
        }
        check(libc::setresgid(gid, gid, gid) as i64)?;
        check(libc::setresuid(uid, uid, uid) as i64)
    }
}

/// Gives up all capabilities. A change of user does that only to who was root in its user namespace.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    // `struct __user_cap_header_struct` of version 3, and two empty `__user_cap_data_struct`.
    let (header, none) = ([0x2008_0522_u32, 0], [0_u32; 6]);
    // SAFETY: both live through the call and have the sizes of that version.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) })
}

/// Closes all descriptors but these.
pub(crate) fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    keep.sort_unstable();
    let mut first = 0;
    for last in keep.into_iter().chain([u32::MAX]) {
        if last > first {
            // SAFETY: only for a process that from here on uses none but those it keeps.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last - 1, 0) })?;
        }
        first = last.saturating_add(1);
    }
    Ok(())
}

/// The version of Landlock in this kernel.
pub(crate) fn landlock_version() -> io::Result<i64> {
    let none = std::ptr::null::<u8>();
    // SAFETY: with this flag (LANDLOCK_CREATE_RULESET_VERSION) the pointer must be null.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, 1) };
    check(version).map(|()| version)
}

/// Puts a signal's handling to the default, or ignores it.
pub(crate) fn set_signal(signal: libc::c_int, ignore: bool) {
    let action = if ignore { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: no handler is installed, so no code of ours runs in signal context.
    unsafe { libc::signal(signal, action) };
}

/// Gives the descriptors the numbers 0, 1, ... and closes all others on the coming `exec`.
pub(crate) fn arrange_fds<const N: usize>(fds: [BorrowedFd<'_>; N]) -> io::Result<()> {
    let mut high = [0; N];
    for (slot, fd) in high.iter_mut().zip(fds) {
        // SAFETY: F_DUPFD_CLOEXEC takes an integer; first upwards, out of the way of the targets.
        *slot = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 64) };
        check(i64::from(*slot))?;
    }
    for (target, fd) in high.into_iter().enumerate() {
        // SAFETY: the number at the target may belong to an owner in this process, but that one
        // never runs again: this process only calls `exec` or exits from here on.
        check(unsafe { libc::dup2(fd, target as RawFd) } as i64)?;
    }
    // SAFETY: marks descriptors only.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            N,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })
}

/// Replaces this program, with an empty environment. Returns only on failure.
pub(crate) fn exec(path: &CStr) -> io::Error {
    let argv = [path.as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null()];
    // SAFETY: all are null-terminated and live until the program is replaced.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends this process without running destructors or handlers of the parent it is a copy of.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(status) }
}

fn check(result: i64) -> io::Result<()> {
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
