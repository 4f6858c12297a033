//! What rules a process out as a zygote, asked of the shim itself.

use std::path::Path;
use std::process::Command;

use crate::harness::PYTHON;

/// What the shim says of a process that has run this first; empty if nothing.
fn unfit(before: &str) -> String {
    let shims = Path::new(env!("CARGO_MANIFEST_DIR")).join("shims");
    let program = format!(
        "import os, sys, threading, mmap\n\
         os.closerange(3, 1000)\n\
         sys.path.insert(0, {shims:?})\n\
         import shim\n\
         class Connection:\n    class socket:\n        fileno = staticmethod(lambda: 999)\n\
         {before}\n\
         print(shim.unfit(Connection) or '')\n\
         os._exit(print('', end='', flush=True) or 0)\n"
    );
    let output = Command::new(PYTHON)
        .args(["-B", "-c", &program])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn what_children_would_share_rules_a_zygote_out() {
    assert_eq!(unfit(""), "");
    let kept = unfit("kept = os.open('/etc/passwd', os.O_RDONLY)");
    assert_eq!(kept, "a module keeps /etc/passwd open");
    let shared = unfit("shared = mmap.mmap(-1, 4096)");
    assert!(shared.contains("memory"), "{shared}");
    assert_eq!(unfit("own = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE)"), "");
    let thread = "threading.Thread(target=threading.Event().wait, daemon=True).start()";
    assert_eq!(unfit(thread), "a module has started threads");
}
