"""The side of the frame protocol that runs in a Python sandbox: see crates/executor/PROTOCOL.md.

Start-up time is cold-start time, so only what every call needs is imported here; the rest is
imported where it is used. One thread serves each slot, slot 0 on the main thread.
"""

import sys
import _socket
from os import _exit, environ, getpid

HELLO, LOAD, LOADED, INVOKE, RESULT, ZYGOTE = 1, 2, 3, 4, 5, 6
FRAME_MAX = 64 << 20
OUTPUT_MAX = 1 << 20
CUT = "\n[output cut: a call may print 1 MiB]\n"


def make_json():
    """`json.loads` and `json.dumps` without importing `json`.

    That module imports `re`, which takes longer than everything else here. The C parts that do its
    work are used directly where they behave as expected; where not, the module itself is.
    """
    try:
        import _json

        class Options:
            strict = True
            object_hook = object_pairs_hook = None
            parse_float, parse_int = float, int
            memo = {}

            @staticmethod
            def parse_constant(name):
                return float(name.replace("Infinity", "inf"))

        scan = _json.make_scanner(Options)

        def no_json(value):
            raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")

        def loads(data):
            text = data.decode()
            value, end = scan(text, 0)
            if end != len(text) and text[end:].strip():
                raise ValueError("extra data after the JSON value")
            return value

        escape = _json.encode_basestring_ascii

        def make_dumps():
            # What is being encoded, to find circles: so this is not for two threads at once.
            marks = {}
            encode = _json.make_encoder(
                marks, no_json, escape, None, ": ", ", ", False, False, True
            )

            def dumps(value):
                try:
                    return "".join(encode(value, 0))
                except BaseException:
                    marks.clear()
                    raise

            return dumps

        sample = {"a": [1, 2.5, None, True, "\u00fc"], "b": {}}
        text = '{"a": [1, 2.5, null, true, "\\u00fc"], "b": {}}'
        if make_dumps()(sample) != text or loads(text.encode()) != sample:
            raise ImportError
        return loads, make_dumps, escape
    except (ImportError, AttributeError, TypeError, ValueError):
        import json

        return json.loads, lambda: json.dumps, json.dumps


loads, make_dumps, quote = make_json()
PID = getpid()


class Connection:
    """A framed connection to the node."""

    def __init__(self, slot):
        self.socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.socket.connect(environ["SERVERLEDGE_SOCKET"])
        self.dumps = make_dumps()
        version = ".".join(map(str, sys.version_info[:3]))
        self.send(HELLO, {"slot": slot, "runtime": "python", "version": version})

    def send(self, kind, head, body=b""):
        self.send_text(kind, self.dumps(head).encode(), body)

    def send_text(self, kind, head, body):
        length = 5 + len(head) + len(body)
        prefix = length.to_bytes(4, "big") + bytes((kind,)) + len(head).to_bytes(4, "big")
        if len(body) < 65536:
            self.socket.sendall(prefix + head + body)
        else:
            self.socket.sendall(prefix + head)
            self.socket.sendall(body)

    def receive(self):
        """The next frame's kind, head and body; None when the node is gone."""
        # Most frames are small and arrive whole: one system call.
        data = self.socket.recv(65536)
        while data and len(data) < 4:
            more = self.socket.recv(4 - len(data))
            if not more:
                return None
            data += more
        if not data:
            return None
        length = int.from_bytes(data[:4], "big")
        if len(data) < 4 + length:
            whole = bytearray(4 + length)
            whole[: len(data)] = data
            view, filled = memoryview(whole), len(data)
            while filled < len(whole):
                got = self.socket.recv_into(view[filled:])
                if not got:
                    return None
                filled += got
            view.release()
            data = bytes(whole)
        body_at = 9 + int.from_bytes(data[5:9], "big")
        return data[4], data[9:body_at], data[body_at:]


class Output:
    """What one call prints: standard output, then standard error, of bounded size."""

    def __init__(self):
        self.parts = ([], [])
        self.room = OUTPUT_MAX
        self.cut = False

    def write(self, stream, text):
        if len(text) > self.room:
            self.cut = True
            text = text[: self.room]
        self.room -= len(text)
        if text:
            self.parts[stream].append(text)

    def text(self):
        out, err = ("".join(part) for part in self.parts)
        if not (out or err or self.cut):
            return ""
        return out + "\n" + err + (CUT if self.cut else "")


class Stream:
    """Stands for sys.stdout or sys.stderr: gives what is printed to the call that prints it."""

    def __init__(self, index, real):
        self._index = index
        self._real = real

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        output = CURRENT()
        if output is None:
            self._real.write(text)
            self._real.flush()
        else:
            output.write(self._index, text)
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        if CURRENT() is None:
            self._real.flush()

    def __getattr__(self, name):
        return getattr(self._real, name)


class Discard:
    """The output of a call whose caller doesn't want it."""

    def write(self, _stream, _text):
        pass

    def text(self):
        return ""


DISCARD = Discard()


def make_current():
    # A context variable and not a thread-local: a coroutine's tasks inherit it, while threads that
    # the function starts don't, so that what outlives a call never prints into the next one.
    from _contextvars import ContextVar

    variable = ContextVar("serverledge_output", default=None)
    return variable.get, variable.set


CURRENT, set_current = make_current()


class Context(dict):
    """The handler's second argument: a dict whose keys are attributes too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def get_remaining_time_in_millis(self):
        import time

        return max(0, int((self["deadline"] - time.time()) * 1000))


def failure(error, skip):
    """An exception for the wire, without the `skip` frames of this file at its top."""
    try:
        import traceback

        trace = error.__traceback__
        for _ in range(skip):
            trace = trace.tb_next if trace is not None else None
        lines = traceback.format_exception(type(error), error, trace)
        stack = "".join(lines)[:65536]
    except BaseException:
        stack = ""
    try:
        message = str(error)[:16384]
    except BaseException:
        message = "(its message could not be made)"
    return {"type": type(error).__name__, "message": message, "stack": stack}


class LoadError(Exception):
    """The handler isn't there."""


SITE_PACKAGES = "/usr/lib/python3/dist-packages"


def add_site_packages():
    if sys.path[-1] == SITE_PACKAGES:
        return
    # -S keeps the start fast; the distribution's packages are still importable.
    major, minor = sys.version_info[:2]
    for prefix in ("/usr/local", "/usr"):
        sys.path.append(f"{prefix}/lib/python{major}.{minor}/site-packages")
        sys.path.append(f"{prefix}/lib/python{major}.{minor}/dist-packages")
    sys.path.append(SITE_PACKAGES)


def add_exit():
    # These two come with `site`, too.
    import builtins

    builtins.exit = builtins.quit = sys.exit


def preload():
    """Imports what functions have asked for ahead of them; the error of the first that fails."""
    modules = environ.pop("SERVERLEDGE_PRELOAD", "")
    if not modules:
        return None
    add_site_packages()
    for module in modules.split(","):
        try:
            __import__(module)
        except BaseException as error:
            return LoadError(f"Preload: the module '{module}' can't be imported: {type(error).__name__}: {error}")
    return None


def load(head):
    directory, handler = head["handler_dir"], head["handler"]
    module_name, _, attribute = handler.rpartition(".")
    if not module_name:
        module_name, attribute = attribute, "handler"
    sys.path.insert(0, directory)
    try:
        __import__(module_name)
        module = sys.modules[module_name]
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            from os import listdir

            raise LoadError(
                f"handler '{handler}': there is no module '{module_name}' in the code, "
                f"which has {sorted(listdir(directory))[:50]}"
            ) from None
        raise
    function = module
    for name in attribute.split("."):
        function = getattr(function, name, None)
    if not callable(function):
        raise LoadError(f"handler '{handler}': the module '{module_name}' has no function '{attribute}'")
    return function


def run(handler, params, context, dumps):
    result = handler(params, context)
    if hasattr(result, "__await__"):
        import asyncio

        async def wait():
            return await result

        result = asyncio.run(wait())
    try:
        text = dumps(result)
    except (TypeError, ValueError) as error:
        raise TypeError(f"the function's result is not JSON: {error}") from None
    return text.encode()


def invoke(handler, template, head, body, dumps):
    """Runs one call: the head and body of its RESULT."""
    head = loads(head)
    output = Output() if head["output"] else DISCARD
    set_current(output)
    try:
        context = Context(template)
        context["request_id"] = head["id"]
        context["deadline"] = head["deadline"]
        result = run(handler, loads(body), context, dumps)
        if len(result) > FRAME_MAX - OUTPUT_MAX * 8:
            raise ValueError(f"the function's result of {len(result)} bytes is too large")
        reply = {"ok": True, "id": head["id"]}
    except SystemExit as error:
        leave(error.code)
    except BaseException as error:
        result = b""
        reply = {"ok": False, "id": head["id"], "error": failure(error, 2)}
    finally:
        set_current(None)
    text = output.text()
    if text:
        reply["output"] = text
    return reply, result


def leave(code):
    """The function asked the process to exit."""
    try:
        sys.__stdout__.flush()
        sys.__stderr__.flush()
    finally:
        if code is None:
            _exit(0)
        if isinstance(code, int):
            _exit(code & 0xFF)
        sys.__stderr__.write(f"{code}\n")
        sys.__stderr__.flush()
        _exit(1)


def left_running(slots):
    """Threads that calls left behind. Cheap: no module is imported to find out there are none."""
    threading = sys.modules.get("threading")
    return max(0, threading.active_count() - slots) if threading else 0


def serve(connection, handler, template, slots):
    while True:
        frame = connection.receive()
        if frame is None:
            _exit(0)
        kind, head, body = frame
        if kind != INVOKE:
            _exit(70)
        reply, result = invoke(handler, template, head, body, connection.dumps)
        if getpid() != PID:
            # A child that the function forked and let return: the call is the parent's to answer.
            _exit(0)
        left = left_running(slots)
        if left:
            reply["left"] = left
        if len(reply) == 2 and reply["ok"]:
            # The same text, made faster.
            text = '{"ok": true, "id": ' + quote(reply["id"]) + "}"
            connection.send_text(RESULT, text.encode(), result)
        else:
            connection.send(RESULT, reply, result)


def warm_up():
    """Goes the ways of a first call once: a third of its time is touching them first."""
    names = {}
    exec(compile("def handler(params, context):\n    return None\n", "warm-up", "exec"), names)
    invoke(names["handler"], {}, b'{"id":"","deadline":0.5,"output":false}', b"null", make_dumps())


# What a zygote's children join, in this order; see child.rs. The descriptors of an order are these,
# the log, where the executor is told of the child, and where it tells that it is ready for it.
JOINED = (0x10000000, 0x00020000, 0x40000000, 0x08000000, 0x04000000, 0x02000000, 0x20000000)
ORDER_FDS = len(JOINED) + 3
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 22, 24, 38


def unfit(connection):
    """Why this process can't be a zygote: what it would share with all that it forks, and they with
    each other."""
    from os import fork, listdir, readlink, waitpid

    own = ("0", "1", "2", str(connection.socket.fileno()))
    for name in listdir("/proc/self/fd"):
        if name not in own:
            try:
                return f"a module keeps {readlink('/proc/self/fd/' + name)} open"
            except FileNotFoundError:
                pass  # What has just been listed with.
    with open("/proc/self/maps") as maps:
        for line in maps:
            permissions = line.split()[1]
            if permissions[3] == "s" and permissions[1] == "w":
                return "a module has memory that it shares with processes that it forks"
    # Some end their threads when they are forked, and start them again when they need them.
    child = fork()
    if child == 0:
        _exit(0)
    waitpid(child, 0)
    if len(listdir("/proc/self/task")) > 1:
        return "a module has started threads"
    return None


def be_zygote(connection, seccomp, not_preloaded):
    """Forks a shim for each order, and returns in those: with all that a sandbox has been started
    with, in a sandbox of its own. See docs/decisions/0023."""
    import ctypes
    import gc
    from os import close, fork, waitpid, WNOHANG

    libc = ctypes.CDLL(None, use_errno=True)
    error = not_preloaded
    if error is None:
        why = unfit(connection)
        error = LoadError(f"not fit for a zygote: {why}") if why else None
    if error is not None:
        connection.send(LOADED, {"ok": False, "error": failure(error, 1)})
        connection.receive()
        _exit(0)
    # What is there now stays for ever: the collector would write to each object's page.
    gc.collect()
    gc.freeze()
    connection.send(LOADED, {"ok": True})
    while True:
        order = receive_order(connection)
        if order is None:
            _exit(0)
        user, fds = order
        child = fork()
        if child == 0:
            become_shim(connection, libc, seccomp, user, fds)
            return
        for fd in fds:
            close(fd)
        try:
            while waitpid(-1, WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def receive_order(connection):
    """User and group, and the descriptors; None when the node is gone."""
    cloexec = 0x40000000
    data, ancillary, _, _ = connection.socket.recvmsg(8, _socket.CMSG_SPACE(4 * ORDER_FDS), cloexec)
    if not data:
        return None
    fds = [int.from_bytes(rights[at : at + 4], sys.byteorder) for _, _, rights in ancillary for at in range(0, len(rights), 4)]
    if len(data) != 8 or len(fds) != ORDER_FDS:
        _exit(70)
    return (int.from_bytes(data[:4], "big"), int.from_bytes(data[4:], "big")), fds


def become_shim(connection, libc, seccomp, user, fds):
    """In a child of the zygote: goes on as the shim of another sandbox, or ends. Nothing of a function
    is in this process before it has told the node that it is there."""
    zygote = PID
    try:
        enter_sandbox(libc, fds)
        confine(connection, libc, seccomp, user, fds)
        draw_afresh(zygote)
    except BaseException as error:
        try:
            sys.__stderr__.write(f"a child of the zygote failed: {error!r}\n")
            sys.__stderr__.flush()
        finally:
            _exit(71)


def must(result, what):
    if result < 0:
        import ctypes

        raise OSError(ctypes.get_errno(), what)


def enter_sandbox(libc, fds):
    """Returns in a grandchild whose parent is the sandbox's first process."""
    from os import fork, waitpid, write

    for kind, fd in zip(JOINED, fds):
        must(libc.setns(fd, kind), f"setns {kind:#x}")
    # Only children are in the pid namespace. Those of a child which ends there belong to its first
    # process; it reads to the end, which comes when this process ends, after that.
    child = fork()
    if child != 0:
        waitpid(child, 0)
        _exit(0)
    shim = fork()
    if shim != 0:
        write(fds[-2], shim.to_bytes(4, "big"))
        _exit(0)


def confine(connection, libc, seccomp, user, fds):
    """What the helper and the executor do for an interpreter that they start. The node makes sure of
    it: see zygote.rs."""
    import ctypes
    from os import O_RDONLY, closerange, dup2, open, read, setgroups, setresgid, setresuid, setsid

    setsid()
    dup2(open("/dev/null", O_RDONLY), 0)
    dup2(fds[-3], 1)
    dup2(fds[-3], 2)
    # To this nothing is ever written. It ends when the executor has hidden itself.
    read(fds[-1], 1)
    # Its number will be another connection's.
    connection.socket.detach()
    closerange(3, 1 << 20)
    setgroups([])
    setresgid(user[1], user[1], user[1])
    setresuid(user[0], user[0], user[0])
    capability = 0
    while capability < 64 and libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    must(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    # As after an exec, which would have undone what the change of user did.
    must(libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")
    must(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")

    class Program(ctypes.Structure):
        _fields_ = [("instructions", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    program = Program(len(seccomp) // 8, seccomp)
    must(libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0), "seccomp")


def draw_afresh(zygote):
    """Draws new numbers where modules keep some that they have drawn in the zygote. `random` sees to
    that itself."""
    global PID
    from os import urandom

    PID = getpid()
    if PID == zygote:
        # By this difference OpenSSL and others notice that they have been forked.
        raise RuntimeError("the process has the number of its zygote")
    modules = sys.modules
    if "numpy.random" in modules:
        modules["numpy.random"].seed()
    if "_ssl" in modules:
        modules["_ssl"].RAND_add(urandom(48), 48.0)
    if "tempfile" in modules:
        modules["tempfile"]._name_sequence = None


def main():
    connection = Connection(0)
    # The node is busy with the sandbox's limits, or has no function for it yet.
    not_preloaded = preload()
    warm_up()
    frame = connection.receive()
    if frame is None:
        _exit(0)
    if frame[0] == ZYGOTE:
        be_zygote(connection, frame[2], not_preloaded)
        connection = Connection(0)
        frame = connection.receive()
        if frame is None:
            _exit(0)
    head = loads(frame[1])
    slots = head.get("slots", 1)
    others = [Connection(slot) for slot in range(1, slots)]
    sys.stdout, sys.stderr = Stream(0, sys.stdout), Stream(1, sys.stderr)
    add_site_packages()
    add_exit()
    try:
        if not_preloaded:
            raise not_preloaded
        handler = load(head)
    except SystemExit as error:
        leave(error.code)
    except BaseException as error:
        connection.send(LOADED, {"ok": False, "error": failure(error, 1)})
        # The node closes the connection; there is nothing to serve.
        connection.receive()
        _exit(0)
    template = {"function_name": head["function"], "memory_mb": head["memory_mb"]}
    for other in others:
        import threading

        arguments = (other, handler, template, slots)
        threading.Thread(target=serve, args=arguments, daemon=True).start()
    connection.send(LOADED, {"ok": True})
    serve(connection, handler, template, slots)


# A process that the function starts with `multiprocessing` reads this file as `__mp_main__`.
if __name__ == "__main__":
    main()
