const RATES = { EUR: 1, CHF: 1.05, USD: 0.9 };

// The name is what workflows tell errors apart by.
class UnknownCurrency extends Error {
  name = 'UnknownCurrency';
}

exports.handler = (params, context) => {
  const rate = RATES[params.from];
  if (rate === undefined) throw new UnknownCurrency(params.from);
  return { rate };
};
