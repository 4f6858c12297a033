// How often each word occurs in `InputText`.

module.exports = (params, context) => {
  const counts = Object.create(null); // A word may well be "constructor".
  for (const word of params.InputText.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []) {
    counts[word] = (counts[word] ?? 0) + 1;
  }
  return counts;
};
