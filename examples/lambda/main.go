// A function for AWS Lambda, which runs here as it is: greets whom `name` names.
//
//	CGO_ENABLED=0 go build -tags lambda.norpc -o bootstrap .
//	serverledge-cli create -f hello --runtime provided.al2023 --memory 128 --src bootstrap
package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

type event struct {
	Name string `json:"name"`
}

type reply struct {
	Message   string `json:"message"`
	Function  string `json:"function"`
	RequestID string `json:"request_id"`
}

func hello(ctx context.Context, e event) (reply, error) {
	if _, hasDeadline := ctx.Deadline(); !hasDeadline {
		return reply{}, errors.New("a call without a deadline")
	}
	if e.Name == "" {
		return reply{}, errors.New("the event has no `name`")
	}
	if e.Name == "nobody" {
		panic("nobody to greet")
	}
	fmt.Println("greeting", e.Name)
	lambda, _ := lambdacontext.FromContext(ctx)
	return reply{
		Message:   "Hello, " + e.Name + "!",
		Function:  lambdacontext.FunctionName,
		RequestID: lambda.AwsRequestID,
	}, nil
}

func main() {
	lambda.Start(hello)
}
