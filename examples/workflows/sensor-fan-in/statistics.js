exports.handler = (params, context) => {
  const values = params.values;
  const sum = values.reduce((a, b) => a + b, 0);
  return { of: params.of, max: Math.max(...values), mean: sum / values.length };
};
