// Greets, and adds `a` and `b` if they are numbers.
//
//   javac -d classes HelloFunction.java && jar --create --file hello.jar -C classes .
//   serverledge-cli create -f hello --runtime java21 --handler HelloFunction --src hello.jar
//   serverledge-cli invoke -f hello -p a:=2 -p b:=3

import java.util.LinkedHashMap;
import java.util.Map;

public class HelloFunction {
    // Called when the handler is `HelloFunction`, as if it were `HelloFunction::handler`. Each call
    // has a new instance; `params` is null when a call brings none.
    public Map<String, Object> handler(Map<String, Object> params, Map<String, Object> context) {
        Map<String, Object> reply = new LinkedHashMap<>();
        reply.put("message", "Hello from Serverledge!");
        if (params == null) return reply;
        reply.putAll(params);
        if (params.get("a") instanceof Number a && params.get("b") instanceof Number b) {
            reply.put("sum", a.doubleValue() + b.doubleValue());
        }
        return reply;
    }
}
