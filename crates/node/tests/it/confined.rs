//! What a function must not reach: others' files and the machine's. For all else see `probe`.

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
