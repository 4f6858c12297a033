// Does nothing: what an invocation costs by itself.

module.exports = (params, context) => null;
