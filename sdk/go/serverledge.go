// Package serverledge makes a Go program a Serverledge function: its main function calls Start with
// the handler. The program is a server that the platform calls on port 8080, by the protocol of
// crates/executor/PROTOCOL.md ("Programs"), and runs in the sandboxes of this project as well as in
// containers of the original.
package serverledge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
)

const (
	address = ":8080"
	// Bytes of a request, as in the platform's frames.
	requestMax = 64 << 20
	// Bytes that a call may print.
	outputMax = 1 << 20
	cut       = "\n[output cut: a call may print 1 MiB]\n"
)

// Handler is a function: parameters in, a result that encoding/json can encode, or an error, out.
// The parameters are nil if the call has none. Calls may run at the same time if the function was
// created with a MaxConcurrency above 1.
type Handler func(params map[string]any) (any, error)

// Start serves calls with the handler for as long as the program lives; it does not return.
func Start(handler Handler) {
	err := http.ListenAndServe(address, newServer(handler))
	log.Fatalf("serverledge: serving on %s: %v", address, err)
}

type request struct {
	Params       map[string]any
	ReturnOutput bool
}

type response struct {
	Success bool
	Result  string
	Output  string
	// Not in the original, which has the error at the end of the output.
	Error string `json:",omitempty"`
}

type server struct {
	handler Handler
	// Held exclusively by a call whose output is wanted, since a process has one standard output.
	printing sync.RWMutex
}

func newServer(handler Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/invoke", &server{handler: handler})
	return mux
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var asked request
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, requestMax)).Decode(&asked); err != nil {
		http.Error(w, "Invalid Request", http.StatusInternalServerError)
		return
	}
	answer, err := json.Marshal(s.invoke(asked))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
	// If this fails, nobody is left to tell.
	_, _ = w.Write(answer)
}

func (s *server) invoke(asked request) response {
	var result string
	var output string
	var err error
	if asked.ReturnOutput {
		s.printing.Lock()
		defer s.printing.Unlock()
		output = capture(func() { result, err = s.call(asked.Params) })
	} else {
		s.printing.RLock()
		defer s.printing.RUnlock()
		result, err = s.call(asked.Params)
	}
	if err != nil {
		return response{Output: output + err.Error(), Error: err.Error()}
	}
	return response{Success: true, Result: result, Output: output}
}

// call runs the handler and encodes what it returned. A panic is an error of this call alone.
func (s *server) call(params map[string]any) (result string, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v\n%s", cause, debug.Stack())
		}
	}()
	value, err := s.handler(params)
	if err != nil {
		return "", err
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return "", fmt.Errorf("the function's result is not JSON: %w", err)
	}
	return string(encoded), nil
}

// capture runs the call with standard output, standard error and the log going into a text.
func capture(run func()) string {
	reader, writer, err := os.Pipe()
	if err != nil {
		run()
		return fmt.Sprintf("[the output could not be captured: %v]\n", err)
	}
	stdout, stderr, logging := os.Stdout, os.Stderr, log.Writer()
	os.Stdout, os.Stderr = writer, writer
	log.SetOutput(writer)
	text := make(chan string)
	go func() { text <- read(reader) }()
	run()
	os.Stdout, os.Stderr = stdout, stderr
	log.SetOutput(logging)
	// What the call has left running may hold the pipe no more: it gets an error when it prints.
	writer.Close()
	output := <-text
	reader.Close()
	return output
}

// read keeps the first bytes and takes the rest, so that whoever prints isn't held up.
func read(reader io.Reader) string {
	var kept bytes.Buffer
	_, _ = io.CopyN(&kept, reader, outputMax)
	if more, _ := io.Copy(io.Discard, reader); more > 0 {
		kept.WriteString(cut)
	}
	return kept.String()
}
