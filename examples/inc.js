// n + 1, a building block of workflows.

module.exports = (params, context) => Number(params.n) + 1;
