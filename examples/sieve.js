// The primes up to `n`, by the sieve of Eratosthenes.

const N_MAX = 10_000_000;

module.exports = (params, context) => {
  const n = Number(params.n);
  if (!Number.isInteger(n) || n < 0 || n > N_MAX) {
    throw new RangeError(`n must be a whole number of 0 to ${N_MAX}`);
  }
  const composite = new Uint8Array(n + 1);
  const primes = [];
  for (let candidate = 2; candidate <= n; candidate += 1) {
    if (composite[candidate]) continue;
    primes.push(candidate);
    for (let multiple = candidate * candidate; multiple <= n; multiple += candidate) {
      composite[multiple] = 1;
    }
  }
  return { Count: primes.length, Primes: primes };
};
