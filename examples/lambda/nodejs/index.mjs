// A function for AWS Lambda, which runs here as it is: greets whom `name` names. Its client of the
// runtime interface is Amazon's own.
//
//   npm install
//   serverledge-cli create -f hello --runtime provided.al2023 --handler index.handler --memory 256 --src .

export const handler = async (event, context) => {
  if (!event.name) {
    throw new RangeError("the event has no `name`");
  }
  console.log(`greeting ${event.name}`);
  if (context.getRemainingTimeInMillis() <= 0) {
    throw new Error("a call without a deadline");
  }
  return {
    message: `Hello, ${event.name}!`,
    function: context.functionName,
    request_id: context.awsRequestId,
  };
};
