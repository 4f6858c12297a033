// Greets.

module.exports = (params, context) => {
  const name = params && params.name ? params.name : 'Serverledge';
  return { message: `Hello from ${name}!` };
};
