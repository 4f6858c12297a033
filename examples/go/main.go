// A Go function: greets whom `name` names.
//
//	CGO_ENABLED=0 go build -o handler_amd64 .
//	serverledge-cli create -f hello --runtime go125 --memory 128 --src handler_amd64
package main

import (
	"errors"
	"fmt"

	"serverledge"
)

func hello(params map[string]any) (any, error) {
	name, isText := params["name"].(string)
	if !isText {
		return nil, errors.New("the parameter `name` must be a text")
	}
	fmt.Println("greeting", name)
	return map[string]string{"message": "Hello, " + name + "!"}, nil
}

func main() {
	serverledge.Start(hello)
}
