"""A function that reports what it can see and do in its sandbox. `tests/it/probe.rs` judges it."""

import ctypes
import errno
import glob
import os
import platform
import resource
import socket
import stat
import uuid

# Numbers on x86-64 and on 64-bit ARM; None where the architecture doesn't have the call.
CALLS = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mbind": (237, 235),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
CLONE = (56, 220)
PERSONALITY = (135, 92)
NAMESPACES = {
    "NEWNS": 0x00020000,
    "NEWCGROUP": 0x02000000,
    "NEWUTS": 0x04000000,
    "NEWIPC": 0x08000000,
    "NEWUSER": 0x10000000,
    "NEWPID": 0x20000000,
    "NEWNET": 0x40000000,
}
# Family, kind, protocol.
SOCKETS = {
    "stream": (socket.AF_INET, socket.SOCK_STREAM, 0),
    "netlink route": (16, socket.SOCK_RAW, 0),
    "raw ICMP": (socket.AF_INET, socket.SOCK_RAW, 1),
    "raw": (socket.AF_INET, socket.SOCK_RAW, 255),
    "raw IPv6": (socket.AF_INET6, socket.SOCK_RAW, 58),
    "packet": (17, socket.SOCK_RAW, 0x0300),
    "packet datagram": (17, socket.SOCK_DGRAM, 0x0300),
    "AX.25": (3, socket.SOCK_DGRAM, 0),
    "key": (15, socket.SOCK_RAW, 2),
    "TIPC": (30, socket.SOCK_DGRAM, 0),
    "Bluetooth": (31, socket.SOCK_RAW, 1),
    "CAN": (29, socket.SOCK_RAW, 1),
    "algorithms": (38, socket.SOCK_SEQPACKET, 0),
    "virtual machine": (40, socket.SOCK_STREAM, 0),
    "XDP": (44, socket.SOCK_RAW, 0),
    "netlink audit": (16, socket.SOCK_RAW, 9),
    "netlink netfilter": (16, socket.SOCK_RAW, 12),
    "netlink xfrm": (16, socket.SOCK_RAW, 6),
    "netlink uevent": (16, socket.SOCK_RAW, 15),
    "netlink generic": (16, socket.SOCK_RAW, 16),
    "netlink crypto": (16, socket.SOCK_RAW, 21),
}
TIOCSTI, TIOCLINUX = 0x5412, 0x541C

libc = ctypes.CDLL(None, use_errno=True)


def machine():
    return 1 if platform.machine() == "aarch64" else 0


def outcome(action, *arguments):
    """`ok`, or the name of the error."""
    try:
        action(*arguments)
        return "ok"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    except ValueError:
        # How `resource` says it.
        return "EPERM"


def system_call(number, *arguments):
    """`ok`, or the name of the error; nothing here succeeds without harm, so try in a child."""
    arguments = [ctypes.c_long(argument) for argument in arguments]
    arguments += [ctypes.c_long(0)] * (6 - len(arguments))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        result = libc.syscall(ctypes.c_long(number), *arguments)
        failed = ctypes.get_errno() if result < 0 else 0
        # A clone that succeeded returns here a second time, with nothing to add.
        os.write(writer, bytes([failed]))
        os._exit(0)
    os.close(writer)
    told = os.read(reader, 1)
    os.close(reader)
    os.waitpid(child, 0)
    if not told:
        return "killed"
    return errno.errorcode.get(told[0], str(told[0])) if told[0] else "ok"


def calls():
    at = machine()
    report = {}
    for name, numbers in CALLS.items():
        if numbers[at] is not None:
            # The number of this process would do as a pid, a descriptor or a size.
            report[name] = system_call(numbers[at])
    # Shows that the rest fails for being what it is.
    report["getpid"] = system_call(39 if at == 0 else 172)
    report["ptrace attach 1"] = system_call(CALLS["ptrace"][at], 16, 1)
    report["process_vm_readv 1"] = system_call(CALLS["process_vm_readv"][at], 1)
    report["kcmp 1"] = system_call(CALLS["kcmp"][at], 1, os.getpid(), 0, 0, 0)
    report["personality no random addresses"] = system_call(PERSONALITY[at], 0x0040000)
    report["personality 32 bits"] = system_call(PERSONALITY[at], 8)
    for name, flag in NAMESPACES.items():
        report[f"unshare {name}"] = system_call(CALLS["unshare"][at], flag)
        report[f"clone {name}"] = system_call(CLONE[at], flag | 17)
    return report


def sockets():
    def make(family, kind, protocol):
        handle = libc.socket(family, kind, protocol)
        if handle < 0:
            raise OSError(ctypes.get_errno(), "")
        os.close(handle)

    return {name: outcome(make, *what) for name, what in SOCKETS.items()}


def status():
    lines = open("/proc/self/status").read().splitlines()
    pairs = dict(line.split(":", 1) for line in lines)
    wanted = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Umask", "Threads", "TracerPid")
    wanted += ("SigBlk", "SigIgn", "SigCgt", "ShdPnd", "Cpus_allowed", "THP_enabled")
    wanted += ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    return {name: pairs[name].split() for name in wanted}


def limits():
    names = ("CORE", "NOFILE", "FSIZE", "NPROC", "MEMLOCK", "DATA", "RTPRIO", "MSGQUEUE")
    return {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in names}


def state():
    """What a process inherits beside."""

    def own(name):
        return open(f"/proc/self/{name}").read()

    return {
        "directory": [os.getcwd(), os.readlink("/proc/self/root")],
        "leads": [os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()],
        "priority": [os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0)],
        "out of memory": own("oom_score_adj"),
        "dumpable": [ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), os.stat("/proc/self/fd").st_uid == os.getuid()],
        "ends with its parent": parent_death_signal(),
        "program": [os.readlink("/proc/self/exe"), own("cmdline"), own("comm")],
        "initial environment": sorted(own("environ").split("\0")),
        "host name": os.uname().nodename,
        "securebits": ctypes.CDLL(None).prctl(27, 0, 0, 0, 0),
        "standard streams": [stat.S_IFMT(os.fstat(handle).st_mode) for handle in range(3)],
    }


def parent_death_signal():
    signal = ctypes.c_int(-1)
    libc.prctl(2, ctypes.byref(signal), 0, 0, 0)
    return signal.value


def processes():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
            found.append([int(pid), words[0].decode(errors="replace")])
        except OSError:
            pass
    return found


def first_process():
    """What can be had of the process that watches over this one, if there is one."""

    def read(name):
        with open(f"/proc/1/{name}", "rb") as file:
            if not file.read(1):
                raise OSError(errno.ENODATA, "")

    def write(name):
        os.close(os.open(f"/proc/1/{name}", os.O_WRONLY))

    def write_self(name):
        os.close(os.open(f"/proc/self/{name}", os.O_WRONLY))

    report = {f"read {name}": outcome(read, name) for name in ("environ", "maps", "auxv", "stack")}
    report["read mem"] = outcome(lambda: os.close(os.open("/proc/1/mem", os.O_RDONLY)))
    for name in ("mem", "oom_score_adj", "fd/1", "fd/4", "uid_map", "setgroups", "attr/current"):
        report[f"write {name}"] = outcome(write, name)
    report["descriptors"] = outcome(os.listdir, "/proc/1/fd")
    report["root"] = outcome(os.listdir, "/proc/1/root/")
    for name in ("uid_map", "gid_map"):
        report[f"write own {name}"] = outcome(write_self, name)
    return report


def mounts():
    return [line.split(" - ")[0].split()[4:6] for line in open("/proc/self/mountinfo")]


def is_writable(path, kind):
    try:
        if stat.S_ISDIR(kind):
            probe = os.path.join(path, f".probe-{os.getpid()}")
            os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.unlink(probe)
        elif stat.S_ISREG(kind):
            os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
        else:
            return False
        return True
    except OSError:
        return False


def files():
    """Walks everything: what can be written, devices, sockets, programs that change the user."""
    report = {"writable": [], "devices": [], "sockets": [], "setuid": [], "secrets": []}
    own = f"/proc/{os.getpid()}"
    for top, directories, names in os.walk("/"):
        if top == "/proc":
            # The first process has a test of its own; this one and its threads may write to itself.
            directories[:] = [name for name in directories if not name.isdigit()]
        if is_writable(top, stat.S_IFDIR):
            report["writable"].append(top)
        for name in names:
            path = os.path.join(top, name)
            try:
                found = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISBLK(found.st_mode) or stat.S_ISCHR(found.st_mode):
                report["devices"].append(path)
            elif stat.S_ISSOCK(found.st_mode):
                report["sockets"].append(path)
            elif found.st_mode & (stat.S_ISUID | stat.S_ISGID) and not is_nosuid(path):
                report["setuid"].append(path)
            # A mount below /usr would have been seen by its directories.
            elif not top.startswith(("/usr", own)) and is_writable(path, found.st_mode):
                report["writable"].append(path)
    for path in ("/etc/shadow", "/proc/kcore", "/proc/kmsg", "/dev/mem", "/dev/kmsg", "/proc/keys"):
        if outcome(lambda: open(path, "rb").read(1)[0:1] or no_data()) == "ok":
            report["secrets"].append(path)
    return report


def no_data():
    raise OSError(errno.ENODATA, "")


def is_nosuid(path):
    try:
        return bool(os.statvfs(path).f_flag & os.ST_NOSUID)
    except OSError:
        return False


def file_tricks():
    """Ways to make something of a file that isn't one's own, or of a device."""
    report = {}
    devices = {"block": stat.S_IFBLK, "character": stat.S_IFCHR}
    for folder in ("/tmp", "/dev/shm"):
        for name, kind in devices.items():
            path = f"{folder}/{name}"
            make = lambda: os.mknod(path, kind | 0o666, os.makedev(8 if kind == stat.S_IFBLK else 1, 1))
            report[f"{name} device in {folder}"] = outcome(make)
        for path in ("/app/probe.py", "/proc/1/exe", "/etc/passwd"):
            report[f"link {path} in {folder}"] = outcome(os.link, path, f"{folder}/linked")
    own = "/tmp/mode"
    open(own, "w").close()
    report["chown to root"] = outcome(os.chown, own, 0, 0)
    report["setuid"] = outcome(os.setuid, 0)
    report["setgid"] = outcome(os.setgid, 0)
    report["setgroups"] = outcome(os.setgroups, [0])
    report["raise the limit of descriptors"] = outcome(
        resource.setrlimit, resource.RLIMIT_NOFILE, (1 << 20, 1 << 20)
    )
    report["raise the limit of core dumps"] = outcome(
        resource.setrlimit, resource.RLIMIT_CORE, (1, 1)
    )
    report["nice"] = outcome(os.setpriority, os.PRIO_PROCESS, 0, -20)
    report["real time"] = outcome(
        os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)
    )
    for handle in range(3):
        for name, request in (("TIOCSTI", TIOCSTI), ("TIOCLINUX", TIOCLINUX)):
            report[f"{name} {handle}"] = outcome(control, handle, request)
    return report


def control(handle, request):
    byte = ctypes.create_string_buffer(b"x")
    if libc.ioctl(handle, ctypes.c_ulong(request), byte) < 0:
        raise OSError(ctypes.get_errno(), "")


def core_dump():
    """Whether a process that crashes leaves its memory behind."""
    child = os.fork()
    if child == 0:
        os.chdir("/tmp")
        os.abort()
    _, how = os.waitpid(child, 0)
    return os.WCOREDUMP(how) or bool(glob.glob("/tmp/core*"))


def descriptors():
    """What this process holds open, beside what it has just opened itself."""
    found = []
    for handle in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{handle}").split(":")[0])
        except OSError:
            pass
    return sorted(set(found))


def reached(targets, unix_sockets):
    """Which of these answer, and the sandbox's own port."""
    found = []
    own = socket.create_server(("127.0.0.1", 0))
    for host, port in targets + [own.getsockname()]:
        try:
            socket.create_connection((host, port), 0.5).close()
            found.append("itself" if port == own.getsockname()[1] else f"{host} {port}")
        except OSError:
            pass
    for path in unix_sockets:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(0.5)
                client.connect(path)
            found.append(path)
        except OSError:
            pass
    return found


def interfaces():
    return [name for _, name in socket.if_nameindex()]


def handler(params, context):
    report = {
        "status": status(),
        "limits": limits(),
        "state": state(),
        "environment": dict(os.environ),
        "processes": processes(),
        "mounts": mounts(),
        "descriptors": descriptors(),
        "interfaces": interfaces(),
        "reached": reached(params["targets"], params["sockets"]),
        "first_process": first_process(),
        "calls": calls(),
        "made_sockets": sockets(),
        "tricks": file_tricks(),
        "core_dump": core_dump(),
    }
    report.update(files())
    return report


SHM_KEY, NAME = 0x5E17E, "left-by-another"


def leave(params, context):
    """Leaves whatever a function can leave behind."""
    made = []
    for folder in ("/tmp", "/dev/shm"):
        with open(f"{folder}/{NAME}", "w") as file:
            file.write(NAME)
        os.symlink("/etc/passwd", f"{folder}/{NAME}-link")
        made.append(folder)
    if libc.shmget(SHM_KEY, 4096, 0o1666) >= 0:
        made.append("shared memory")
    if libc.semget(SHM_KEY, 1, 0o1666) >= 0:
        made.append("semaphore")
    if libc.msgget(SHM_KEY, 0o1666) >= 0:
        made.append("queue")
    global abstract
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0{NAME}")
    abstract.listen()
    os.environ[NAME] = NAME
    if os.fork() == 0:
        # A process that would outlive the call.
        os.execv("/usr/bin/python3", ["python3", "-c", "import time; time.sleep(1000)", NAME])
    return made


def look(params, context):
    """What of that is there."""
    found = [
        path
        for folder in ("/tmp", "/dev/shm")
        for path in glob.glob(f"{folder}/*")
        if NAME in path
    ]
    for name, present in (
        ("shared memory", libc.shmget(SHM_KEY, 0, 0) >= 0),
        ("semaphore", libc.semget(SHM_KEY, 0, 0) >= 0),
        ("queue", libc.msgget(SHM_KEY, 0) >= 0),
        ("environment", NAME in os.environ),
        ("process", any(NAME in open(path, errors="replace").read() for path in glob.glob("/proc/[0-9]*/cmdline"))),
    ):
        if present:
            found.append(name)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"\0{NAME}")
        found.append("abstract socket")
    except OSError:
        pass
    return {"found": found, "uid": os.getuid()}


def draw(params, context):
    """What must differ between any two sandboxes, and what the time is."""
    import random
    import secrets
    import time

    return {
        "different": [
            os.urandom(16).hex(),
            secrets.token_hex(16),
            str(uuid.uuid4()),
            str(random.getrandbits(64)),
            str(hash("a text")),
            open("/proc/sys/kernel/random/uuid").read(),
            str(id(libc)),
        ],
        "time": time.time(),
    }
