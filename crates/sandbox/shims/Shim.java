// The side of the frame protocol that runs in a Java sandbox: see crates/executor/PROTOCOL.md.
//
// Compiled by the node with the machine's own JDK, 17 or later. Functions are loaded by a class
// loader that doesn't see this package, so no name in it is taken from them.

package serverledge.shim;

import java.io.File;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.lang.reflect.Constructor;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.net.URL;
import java.net.URLClassLoader;
import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

public final class Shim {
    static final int HELLO = 1, LOAD = 2, LOADED = 3, INVOKE = 4, RESULT = 5;
    static final int FRAME_MAX = 64 << 20;
    static final int OUTPUT_MAX = 1 << 20;
    static final String CUT = "\n[output cut: a call may print 1 MiB]\n";
    static final byte[] EMPTY = {};

    /** The output of the call that a thread belongs to; threads that it starts belong to it too. */
    static final InheritableThreadLocal<Output> CURRENT = new InheritableThreadLocal<>();

    private Shim() {}

    public static void main(String[] arguments) throws Exception {
        if (arguments.length > 0) {
            rehearse(Path.of(arguments[0]));
            return;
        }
        Connection connection = new Connection(Path.of(System.getenv("SERVERLEDGE_SOCKET")), 0);
        capture();
        warmUp();
        Frame frame = connection.receive();
        if (frame.kind != LOAD) Runtime.getRuntime().halt(70);
        Map<?, ?> head = (Map<?, ?>) Json.read(frame.head);
        int slots = ((Number) head.get("slots")).intValue();
        List<Connection> others = new ArrayList<>();
        for (int slot = 1; slot < slots; slot++) others.add(connection.another(slot));
        Handler handler;
        try {
            handler = Handler.load((String) head.get("handler"), (String) head.get("handler_dir"));
        } catch (Throwable error) {
            connection.send(LOADED, map("ok", false, "error", failure(error)), EMPTY);
            // The node closes the connection; there is nothing to serve.
            connection.receive();
            return;
        }
        Map<String, Object> template = map("functionName", head.get("function"), "memoryMb", head.get("memory_mb"));
        for (Connection other : others) {
            Thread thread = new Thread(() -> serve(other, handler, template, slots), "slot");
            thread.setDaemon(true);
            thread.setContextClassLoader(handler.loader);
            thread.start();
        }
        Thread.currentThread().setContextClassLoader(handler.loader);
        connection.send(LOADED, map("ok", true), EMPTY);
        serve(connection, handler, template, slots);
    }

    static void serve(Connection connection, Handler handler, Map<String, Object> template, int slots) {
        try {
            while (true) {
                Frame frame = connection.receive();
                if (frame.kind != INVOKE) Runtime.getRuntime().halt(70);
                Reply reply = invoke(handler, template, frame);
                int left = Thread.activeCount() - slots;
                if (left > 0) reply.head.put("left", left);
                connection.send(RESULT, reply.head, reply.body);
            }
        } catch (IOException error) {
            // The node is gone: so is the reason to be.
            Runtime.getRuntime().halt(0);
        }
    }

    static Reply invoke(Handler handler, Map<String, Object> template, Frame frame) {
        Map<?, ?> head = (Map<?, ?>) Json.read(frame.head);
        Reply reply = new Reply();
        Output output = new Output(Boolean.TRUE.equals(head.get("output")));
        CURRENT.set(output);
        try {
            Map<String, Object> context = new LinkedHashMap<>(template);
            context.put("requestId", head.get("id"));
            context.put("deadline", head.get("deadline"));
            Object result = handler.call(Json.read(frame.body), context);
            reply.body = Json.write(result).getBytes(StandardCharsets.UTF_8);
            if (reply.body.length > FRAME_MAX - 8 * OUTPUT_MAX) {
                int size = reply.body.length;
                reply.body = EMPTY;
                throw new IllegalArgumentException("the function's result of " + size + " bytes is too large");
            }
            reply.head.put("ok", true);
        } catch (Throwable error) {
            reply.head.put("ok", false);
            reply.head.put("error", failure(error));
        } finally {
            CURRENT.remove();
        }
        reply.head.put("id", head.get("id"));
        String text = output.end();
        if (!text.isEmpty()) reply.head.put("output", text);
        return reply;
    }

    /** An exception for the wire. Its own methods may throw, as they may be the function's. */
    static Map<String, Object> failure(Throwable error) {
        String message;
        String stack;
        try {
            message = error.getMessage();
            // Such as what a class's initialisation has failed with.
            if (message == null) message = error.getCause() == null ? "" : error.getCause().toString();
        } catch (Throwable other) {
            message = "(its message could not be made)";
        }
        try {
            StringWriter text = new StringWriter();
            error.printStackTrace(new PrintWriter(text, true));
            StringBuilder lines = new StringBuilder();
            for (String line : text.toString().split("\n")) {
                String at = line.strip();
                boolean ours = at.startsWith("at serverledge.shim.")
                    || at.startsWith("at java.base/jdk.internal.reflect.")
                    || at.startsWith("at java.base/java.lang.reflect.");
                if (!ours) lines.append(line).append('\n');
            }
            stack = lines.toString();
        } catch (Throwable other) {
            stack = "";
        }
        return map("type", error.getClass().getName(), "message", cut(message, 16384), "stack", cut(stack, 65536));
    }

    static String cut(String text, int length) {
        return text.length() > length ? text.substring(0, length) : text;
    }

    static Map<String, Object> map(Object... entries) {
        Map<String, Object> map = new LinkedHashMap<>();
        for (int i = 0; i < entries.length; i += 2) map.put((String) entries[i], entries[i + 1]);
        return map;
    }

    static void capture() {
        System.setOut(new PrintStream(new Stream(0, FileDescriptor.out), true, StandardCharsets.UTF_8));
        System.setErr(new PrintStream(new Stream(1, FileDescriptor.err), true, StandardCharsets.UTF_8));
    }

    /** Goes the ways of a load and a call once, while the node has no function for this yet. */
    static void warmUp() {
        try {
            Handler.load("none", System.getProperty("java.io.tmpdir"));
        } catch (Throwable expected) {
            failure(expected);
        }
        try {
            Method method = Shim.class.getDeclaredMethod("answer", Map.class, Map.class);
            Handler handler = new Handler(Shim.class.getClassLoader(), null, method);
            String params = "{\"a\": [1, 2.5, null, true, \"\\u00fc\", 12345678901234567890], \"b\": {}}";
            String head = "{\"id\": \"\", \"deadline\": 0.5, \"output\": true}";
            Frame frame = new Frame(INVOKE, head.getBytes(StandardCharsets.UTF_8), params.getBytes(StandardCharsets.UTF_8));
            Json.write(invoke(handler, map(), frame).head);
        } catch (ReflectiveOperationException error) {
            throw new AssertionError(error);
        }
    }

    static Object answer(Map<String, Object> params, Map<String, Object> context) {
        System.out.println("warm");
        return params;
    }

    /** What a start does, for the archive of classes that is written when this ends. */
    static void rehearse(Path directory) throws Exception {
        Path socket = directory.resolve("rehearsal.sock");
        try (ServerSocketChannel server = ServerSocketChannel.open(StandardProtocolFamily.UNIX)) {
            server.bind(UnixDomainSocketAddress.of(socket));
            Connection connection = new Connection(socket, 0);
            Connection node = new Connection(server.accept());
            capture();
            warmUp();
            node.send(INVOKE, map("id", ""), EMPTY);
            connection.receive();
        } finally {
            Files.deleteIfExists(socket);
        }
    }

    static final class Frame {
        final int kind;
        final byte[] head;
        final byte[] body;

        Frame(int kind, byte[] head, byte[] body) {
            this.kind = kind;
            this.head = head;
            this.body = body;
        }
    }

    static final class Reply {
        final Map<String, Object> head = new LinkedHashMap<>();
        byte[] body = EMPTY;
    }

    /** A framed connection to the node. */
    static final class Connection {
        private Path path;
        private final SocketChannel channel;
        // Of its own, as a channel would keep a copy as large as the largest array it is given.
        private final ByteBuffer in = ByteBuffer.allocateDirect(1 << 16).limit(0);
        private final ByteBuffer out = ByteBuffer.allocateDirect(1 << 16);

        Connection(SocketChannel channel) {
            this.channel = channel;
        }

        Connection(Path path, int slot) throws IOException {
            this(SocketChannel.open(UnixDomainSocketAddress.of(path)));
            this.path = path;
            String version = System.getProperty("java.version");
            send(HELLO, map("slot", slot, "runtime", "java", "version", version), EMPTY);
        }

        Connection another(int slot) throws IOException {
            return new Connection(path, slot);
        }

        void send(int kind, Map<String, Object> head, byte[] body) throws IOException {
            byte[] text = Json.write(head).getBytes(StandardCharsets.UTF_8);
            out.clear();
            out.putInt(5 + text.length + body.length).put((byte) kind).putInt(text.length);
            put(text);
            put(body);
            flush();
        }

        private void put(byte[] bytes) throws IOException {
            for (int at = 0; at < bytes.length; ) {
                if (!out.hasRemaining()) flush();
                int size = Math.min(out.remaining(), bytes.length - at);
                out.put(bytes, at, size);
                at += size;
            }
        }

        private void flush() throws IOException {
            out.flip();
            while (out.hasRemaining()) channel.write(out);
            out.clear();
        }

        /** The next frame; the process ends when the node is gone. */
        Frame receive() throws IOException {
            int length = number();
            int kind = take(1)[0];
            int head = number();
            return new Frame(kind, take(head), take(length - 5 - head));
        }

        private int number() throws IOException {
            return ByteBuffer.wrap(take(4)).getInt();
        }

        private byte[] take(int count) throws IOException {
            byte[] bytes = new byte[count];
            for (int at = 0; at < count; ) {
                if (!in.hasRemaining()) {
                    in.clear();
                    int got = channel.read(in);
                    in.flip();
                    if (got < 0) Runtime.getRuntime().halt(0);
                }
                int size = Math.min(in.remaining(), count - at);
                in.get(bytes, at, size);
                at += size;
            }
            return bytes;
        }
    }

    /** What one call prints: standard output, then standard error, of bounded size. */
    static final class Output {
        private final boolean wanted;
        private final java.io.ByteArrayOutputStream[] parts = {
            new java.io.ByteArrayOutputStream(0), new java.io.ByteArrayOutputStream(0)
        };
        private int room = OUTPUT_MAX;
        private boolean isCut;
        private boolean done;

        Output(boolean wanted) {
            this.wanted = wanted;
        }

        /** Whether it is the call's; what comes after its end is for the sandbox's log. */
        synchronized boolean write(int stream, byte[] bytes, int at, int length) {
            if (done) return false;
            if (!wanted) return true;
            int size = Math.min(length, room);
            isCut |= size < length;
            room -= size;
            parts[stream].write(bytes, at, size);
            return true;
        }

        synchronized String end() {
            done = true;
            if (parts[0].size() == 0 && parts[1].size() == 0 && !isCut) return "";
            String text = parts[0].toString(StandardCharsets.UTF_8) + "\n" + parts[1].toString(StandardCharsets.UTF_8);
            return isCut ? text + CUT : text;
        }
    }

    /** Below System.out or System.err: gives what is printed to the call that prints it. */
    static final class Stream extends OutputStream {
        private final int index;
        private final FileOutputStream real;

        Stream(int index, FileDescriptor real) {
            this.index = index;
            this.real = new FileOutputStream(real);
        }

        @Override
        public void write(int octet) throws IOException {
            write(new byte[] {(byte) octet}, 0, 1);
        }

        @Override
        public void write(byte[] bytes, int at, int length) throws IOException {
            Output output = CURRENT.get();
            if (output == null || !output.write(index, bytes, at, length)) real.write(bytes, at, length);
        }
    }

    /** The function's method. */
    static final class Handler {
        final ClassLoader loader;
        private final Constructor<?> constructor;
        private final Method method;

        Handler(ClassLoader loader, Constructor<?> constructor, Method method) {
            this.loader = loader;
            this.constructor = constructor;
            this.method = method;
        }

        static Handler load(String text, String directory) throws Exception {
            int at = text.indexOf("::");
            String className = at < 0 ? text : text.substring(0, at);
            String name = at < 0 ? "handler" : text.substring(at + 2);
            ClassLoader loader = new URLClassLoader(classPath(directory), ClassLoader.getPlatformClassLoader());
            Class<?> type;
            try {
                type = Class.forName(className, true, loader);
            } catch (ClassNotFoundException | NoClassDefFoundError error) {
                boolean inside = error instanceof NoClassDefFoundError && !error.getMessage().contains("wrong name");
                if (inside || !String.valueOf(error.getMessage()).contains(className)) throw error;
                String[] names = new File(directory).list();
                if (names != null) Arrays.sort(names);
                List<String> has = names == null ? List.of() : Arrays.asList(names);
                throw new ClassNotFoundException("handler '" + text + "': there is no class '" + className
                    + "' in the code, which has " + has.subList(0, Math.min(50, has.size())));
            }
            Method method = find(type, name, text);
            method.setAccessible(true);
            Constructor<?> constructor = null;
            if (!Modifier.isStatic(method.getModifiers())) {
                try {
                    constructor = type.getDeclaredConstructor();
                } catch (NoSuchMethodException error) {
                    throw new NoSuchMethodException("handler '" + text + "': the class '" + className
                        + "' can't be made: it needs a constructor without parameters");
                }
                constructor.setAccessible(true);
            }
            return new Handler(loader, constructor, method);
        }

        /** The directory, and the jars in it and in its `lib`. */
        private static URL[] classPath(String directory) throws IOException {
            List<URL> path = new ArrayList<>();
            path.add(new File(directory + "/").toURI().toURL());
            for (String folder : new String[] {directory, directory + "/lib"}) {
                File[] jars = new File(folder).listFiles((parent, file) -> file.endsWith(".jar"));
                if (jars == null) continue;
                Arrays.sort(jars);
                for (File jar : jars) path.add(jar.toURI().toURL());
            }
            return path.toArray(new URL[0]);
        }

        /** With (params, context) rather than (params); for more than one, always the same one. */
        private static Method find(Class<?> type, String name, String text) throws NoSuchMethodException {
            Method found = null;
            List<String> others = new ArrayList<>();
            for (Method method : type.getMethods()) {
                if (!method.getName().equals(name) || method.isBridge()) continue;
                Class<?>[] types = method.getParameterTypes();
                boolean fits = types.length == 1 || types.length == 2;
                for (Class<?> parameter : types) fits &= parameter.isAssignableFrom(LinkedHashMap.class);
                if (!fits) others.add(method.toString());
                else if (found == null || rank(method).compareTo(rank(found)) < 0) found = method;
            }
            if (found != null) return found;
            throw new NoSuchMethodException("handler '" + text + "': the class '" + type.getName()
                + "' has no public method '" + name + "' that takes (Map params, Map context) or (Map params)"
                + (others.isEmpty() ? "" : ", only " + others));
        }

        private static String rank(Method method) {
            Class<?>[] types = method.getParameterTypes();
            return (2 - types.length) + (types[0] == Object.class ? "1" : "0") + Arrays.toString(types);
        }

        Object call(Object params, Map<String, Object> context) throws Throwable {
            try {
                Object instance = constructor == null ? null : constructor.newInstance();
                return method.getParameterCount() == 1 ? method.invoke(instance, params) : method.invoke(instance, params, context);
            } catch (InvocationTargetException error) {
                throw error.getCause();
            }
        }
    }
}
