// Greets whom `name` names, as the interface in sdk/wasm/serverledge.wit says. Make a
// component of it in one of two ways (docs/webassembly.md):
//
//   componentize-js hello.js --wit serverledge.wit --world-name function --out hello.wasm
//   jco componentize hello.js --cwd . --wit serverledge.wit --world-name function --backend qjs \
//       --backend-qjs-disable-async --out hello.wasm
//
// What is written to the console, which QuickJS doesn't have, is shown to callers who ask for output.

export const handler = {
  handle(params, context) {
    const given = JSON.parse(params);
    // An exception of JavaScript's own, if there is no name, is a failure as well.
    const name = given.name.trim();
    if (name === "") {
      throw { name: "NoName", message: "the parameter `name` is empty" };
    }
    globalThis.console?.log(`greeting ${name} for ${context.requestId}`);
    const { functionName, memoryMb } = context;
    return JSON.stringify({ message: `Hello, ${name}!`, functionName, memoryMb });
  },
};
