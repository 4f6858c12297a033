exports.handler = (params, context) => ({
  cents: params.sums.reduce((sum, batch) => sum + batch.cents, 0),
  rows: params.sums.reduce((sum, batch) => sum + batch.rows, 0),
  currency: params.sums[0].currency,
});
