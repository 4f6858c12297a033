//! What a function must not reach: others' files, the machine's, the kernel, the network.

use serde_json::json;

use crate::hostile::{in_vain, rogue, street};
use crate::support::python;

#[test]
fn a_function_reads_nobody_elses_files() {
    let node = street();
    let secret = "d0e5-the-secret";
    node.create(
        &python("victim", "def handler(p, c):\n    open('/tmp/own', 'w').write(KEY)\n    return 'fine'\n")
            .file("secret.txt", secret)
            .file("f.py", &format!("KEY = '{secret}'\ndef handler(p, c):\n    open('/tmp/own', 'w').write(KEY)\n    return 'fine'\n")),
    );
    assert_eq!(node.invoke("victim", json!({})).result(), "fine");
    let snoop = "got = []\n\
        for path in params['paths']:\n    \
            try:\n        \
                got.append([path, (os.listdir if os.path.isdir(path) else lambda p: open(p).read(9))(path)])\n    \
            except OSError: pass\n\
        for top in ('/app', '/tmp', '/run', '/var', '/home', '/root', '/mnt', '/srv', '/opt', '/dev/shm', '/.serverledge'):\n    \
            for folder, _, files in os.walk(top):\n        \
                for file in files:\n            \
                    try:\n                \
                        if params['secret'] in open(os.path.join(folder, file), errors='replace').read(1 << 20):\n                    \
                            got.append(os.path.join(folder, file))\n            \
                    except OSError: pass\n\
        for pid in filter(str.isdigit, os.listdir('/proc')):\n    \
            try:\n        \
                if 'SERVERLEDGE_STORAGE_PATH' in open(f'/proc/{pid}/environ').read():\n            \
                    got.append(f'environment of {pid}')\n    \
            except OSError: pass\n\
        if len([pid for pid in os.listdir('/proc') if pid.isdigit()]) > 5: got.append('processes')\n\
        return got";
    let paths = [
        json!("/etc/shadow"),
        json!("/proc/1/root/etc/shadow"),
        json!("/proc/kcore"),
        json!("/dev/mem"),
        json!(node.storage()),
        json!(format!("/proc/{}/environ", node.pid())),
    ];
    in_vain(
        &node,
        &rogue("snoop", snoop),
        json!({ "paths": paths, "secret": secret }),
    );
    // An empty /root gives nothing away.
    let root = "try: return os.listdir('/root')\nexcept OSError: return []";
    in_vain(&node, &rogue("root", root), json!({}));
}

#[test]
fn a_function_writes_nowhere_but_in_its_tmp() {
    let node = street();
    let scribble = "open('/tmp/allowed', 'w').write('x')\n\
        got = []\n\
        for folder in ('/', '/app', '/usr', '/usr/bin', '/etc', '/var', '/root', '/home', '/run', '/run/serverledge',\n        \
                       '/.serverledge', '/dev', '/proc/sys/kernel', '/sys', '/sys/fs/cgroup', '/lib', '/bin', '/opt'):\n    \
            try:\n        \
                open(folder + '/written', 'w').write('x')\n        \
                got.append(folder)\n    \
            except OSError: pass\n\
        for path in ('/app/f.py', '/.serverledge/shim.py', '/proc/sys/kernel/hostname', '/proc/sysrq-trigger', '/etc/hosts',\n        \
                     '/proc/1/oom_score_adj', '/proc/1/mem', '/proc/sys/kernel/core_pattern'):\n    \
            try:\n        \
                open(path, 'a').write('x')\n        \
                got.append(path)\n    \
            except OSError: pass\n\
        return got";
    in_vain(&node, &rogue("scribble", scribble), json!({}));
    // What it wrote in its /tmp isn't the machine's, nor another function's.
    assert!(!std::path::Path::new("/tmp/allowed").exists());
    let look = "return [name for name in os.listdir('/tmp') if name == 'allowed']";
    in_vain(&node, &rogue("look", look), json!({}));
}

#[test]
fn a_function_gains_no_power_over_the_kernel() {
    let node = street();
    // Every call must fail; those that succeed are returned.
    let escape = "libc = ctypes.CDLL(None, use_errno=True)\n\
        got = []\n\
        def attempt(name, *arguments):\n    \
            if getattr(libc, name)(*arguments) >= 0: got.append(name + repr(arguments))\n\
        attempt('mount', b'none', b'/tmp', b'tmpfs', 0, None)\n\
        attempt('mount', b'/', b'/tmp', None, 4096, None)\n\
        attempt('umount2', b'/proc', 2)\n\
        attempt('chroot', b'/tmp')\n\
        attempt('setuid', 0)\n\
        attempt('setgid', 0)\n\
        attempt('setns', 0, 0)\n\
        attempt('swapon', b'/tmp/x', 0)\n\
        attempt('sethostname', b'mine', 4)\n\
        attempt('mknod', b'/tmp/disk', 0o60666, 0x800)\n\
        for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x02000000): attempt('unshare', flag)\n\
        attempt('ptrace', 16, 1, None, None)\n\
        attempt('ptrace', 0x4206, 1, None, None)\n\
        child = os.fork()\n\
        if child == 0:\n    \
            time.sleep(5)\n    \
            os._exit(0)\n\
        attempt('ptrace', 16, child, None, None)\n\
        os.kill(child, 9)\n\
        for number in params['numbers']: attempt('syscall', number, 0, 0, 0, 0, 0, 0)\n\
        if 0 in (os.getuid(), os.geteuid(), os.getgid(), os.getegid()): got.append('root')\n\
        if 0 in os.getgroups(): got.append('group root')\n\
        status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)\n\
        for key in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'):\n    \
            if int(status[key], 16): got.append(key + status[key])\n\
        if status['NoNewPrivs'] != '1': got.append('new privileges')\n\
        if status['Seccomp'] != '2': got.append('no seccomp')\n\
        return got";
    // keyctl, add_key, bpf, perf_event_open, userfaultfd, io_uring_setup, init_module, kexec_load,
    // open_by_handle_at, process_vm_readv.
    let numbers = if cfg!(target_arch = "aarch64") {
        json!([219, 217, 280, 241, 282, 425, 105, 104, 265])
    } else {
        json!([250, 248, 321, 298, 323, 425, 175, 246, 304])
    };
    in_vain(
        &node,
        &rogue("escape", escape),
        json!({ "numbers": numbers }),
    );
}

#[test]
fn a_function_has_no_network() {
    let node = street();
    let port = node.address.port();
    let call = "import socket\n\
        got = []\n\
        for host in ('127.0.0.1', '192.0.2.1', '::1'):\n    \
            try:\n        \
                socket.create_connection((host, params['port']), timeout=1)\n        \
                got.append(host)\n    \
            except OSError: pass\n\
        return got";
    in_vain(&node, &rogue("network", call), json!({ "port": port }));
}
