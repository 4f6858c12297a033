package serverledge.shim;

import java.lang.reflect.Array;
import java.lang.reflect.RecordComponent;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;

/** JSON text to Map, List, String, Long, BigInteger, Double, Boolean and null, and back. */
final class Json {
    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    static Object read(byte[] bytes) {
        Json json = new Json(new String(bytes, StandardCharsets.UTF_8));
        Object value = json.value();
        json.space();
        if (json.at < json.text.length()) throw json.wrong("more after the value");
        return value;
    }

    private IllegalArgumentException wrong(String what) {
        return new IllegalArgumentException("JSON: " + what + " at character " + at);
    }

    private void space() {
        while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) at++;
    }

    private char next() {
        space();
        if (at >= text.length()) throw wrong("the text ends too early");
        return text.charAt(at);
    }

    private void expect(char wanted) {
        if (next() != wanted) throw wrong("no '" + wanted + "'");
        at++;
    }

    private Object value() {
        switch (next()) {
            case '{': return object();
            case '[': return array();
            case '"': return string();
            case 't': return word("true", true);
            case 'f': return word("false", false);
            case 'n': return word("null", null);
            default: return number();
        }
    }

    private Object word(String word, Object value) {
        if (!text.startsWith(word, at)) throw wrong("no value");
        at += word.length();
        return value;
    }

    private Map<String, Object> object() {
        Map<String, Object> map = new LinkedHashMap<>();
        at++;
        if (next() == '}') {
            at++;
            return map;
        }
        while (true) {
            if (next() != '"') throw wrong("no name");
            String name = string();
            expect(':');
            map.put(name, value());
            if (next() == '}') break;
            expect(',');
        }
        at++;
        return map;
    }

    private List<Object> array() {
        List<Object> list = new ArrayList<>();
        at++;
        if (next() == ']') {
            at++;
            return list;
        }
        while (true) {
            list.add(value());
            if (next() == ']') break;
            expect(',');
        }
        at++;
        return list;
    }

    private String string() {
        int end = ++at;
        while (end < text.length() && text.charAt(end) != '"' && text.charAt(end) != '\\') end++;
        if (end < text.length() && text.charAt(end) == '"') {
            String plain = text.substring(at, end);
            at = end + 1;
            return plain;
        }
        StringBuilder string = new StringBuilder();
        while (true) {
            if (at >= text.length()) throw wrong("a string without an end");
            char c = text.charAt(at++);
            if (c == '"') return string.toString();
            string.append(c == '\\' ? escaped() : c);
        }
    }

    private char escaped() {
        if (at >= text.length()) throw wrong("a string without an end");
        char c = text.charAt(at++);
        switch (c) {
            case '"': case '\\': case '/': return c;
            case 'b': return '\b';
            case 'f': return '\f';
            case 'n': return '\n';
            case 'r': return '\r';
            case 't': return '\t';
            case 'u':
                if (at + 4 > text.length()) throw wrong("a string without an end");
                at += 4;
                return (char) Integer.parseInt(text.substring(at - 4, at), 16);
            default: throw wrong("no escape '\\" + c + "'");
        }
    }

    private Number number() {
        int start = at;
        boolean whole = true;
        while (at < text.length() && "+-.eE0123456789".indexOf(text.charAt(at)) >= 0) {
            whole &= ".eE".indexOf(text.charAt(at)) < 0;
            at++;
        }
        String digits = text.substring(start, at);
        if (digits.isEmpty()) throw wrong("no value");
        if (!whole) {
            double number = Double.parseDouble(digits);
            if (Double.isInfinite(number)) return new BigDecimal(digits);
            return number;
        }
        // 18 digits and a sign fit whatever they are.
        if (digits.length() < 19) return Long.parseLong(digits);
        BigInteger number = new BigInteger(digits);
        if (number.bitLength() < 64) return number.longValue();
        return number;
    }

    static String write(Object value) {
        StringBuilder out = new StringBuilder();
        try {
            write(value, out);
        } catch (StackOverflowError error) {
            throw new IllegalArgumentException("the function's result is not JSON: it is nested too deep, or contains itself");
        }
        return out.toString();
    }

    private static void write(Object value, StringBuilder out) {
        if (value == null || value instanceof Boolean) out.append(value);
        else if (value instanceof CharSequence || value instanceof Character) quote(value.toString(), out);
        else if (value instanceof Number) write((Number) value, out);
        else if (value instanceof Map) object(((Map<?, ?>) value).entrySet(), out);
        else if (value instanceof Iterable) array((Iterable<?>) value, out);
        else if (value.getClass().isArray()) array(elements(value), out);
        else if (value instanceof Optional) write(((Optional<?>) value).orElse(null), out);
        else if (value instanceof Enum) quote(((Enum<?>) value).name(), out);
        else if (value.getClass().isRecord()) write(components(value), out);
        else throw notJson(value.getClass().getName());
    }

    private static IllegalArgumentException notJson(String what) {
        return new IllegalArgumentException("the function's result is not JSON: it has a " + what
            + "; return a Map, List, array, record, String, number, boolean or null");
    }

    private static void write(Number number, StringBuilder out) {
        boolean plain = number instanceof Long || number instanceof Integer || number instanceof Short
            || number instanceof Byte || number instanceof BigInteger || number instanceof BigDecimal
            || number instanceof AtomicInteger || number instanceof AtomicLong;
        if (!plain && !Double.isFinite(number.doubleValue())) throw notJson("number that is " + number);
        if (plain || number instanceof Float) out.append(number);
        else out.append(number.doubleValue());
    }

    private static void object(Iterable<? extends Map.Entry<?, ?>> entries, StringBuilder out) {
        char before = '{';
        for (Map.Entry<?, ?> entry : entries) {
            out.append(before);
            quote(String.valueOf(entry.getKey()), out);
            out.append(':');
            write(entry.getValue(), out);
            before = ',';
        }
        out.append(before == '{' ? "{}" : "}");
    }

    private static void array(Iterable<?> elements, StringBuilder out) {
        char before = '[';
        for (Object element : elements) {
            out.append(before);
            write(element, out);
            before = ',';
        }
        out.append(before == '[' ? "[]" : "]");
    }

    private static List<Object> elements(Object array) {
        List<Object> list = new ArrayList<>();
        for (int i = 0; i < Array.getLength(array); i++) list.add(Array.get(array, i));
        return list;
    }

    private static Map<String, Object> components(Object record) {
        Map<String, Object> map = new LinkedHashMap<>();
        for (RecordComponent component : record.getClass().getRecordComponents()) {
            try {
                component.getAccessor().setAccessible(true);
                map.put(component.getName(), component.getAccessor().invoke(record));
            } catch (ReflectiveOperationException error) {
                throw new IllegalArgumentException("the function's result is not JSON: " + error, error);
            }
        }
        return map;
    }

    private static void quote(String text, StringBuilder out) {
        out.append('"');
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            boolean paired = Character.isHighSurrogate(c) && i + 1 < text.length()
                && Character.isLowSurrogate(text.charAt(i + 1));
            if (paired) out.append(c).append(text.charAt(++i));
            else if (c == '"' || c == '\\') out.append('\\').append(c);
            else if (c == '\n') out.append("\\n");
            else if (c < ' ' || Character.isSurrogate(c)) out.append(String.format("\\u%04x", (int) c));
            else out.append(c);
        }
        out.append('"');
    }
}
