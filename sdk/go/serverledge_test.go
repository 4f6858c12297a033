package serverledge

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
)

func handler(params map[string]any) (any, error) {
	switch params["do"] {
	case "fail":
		fmt.Println("about to")
		return nil, errors.New("as you wished")
	case "panic":
		panic("oh no")
	case "babble":
		return func() {}, nil
	case "print":
		fmt.Print("out ")
		fmt.Fprint(os.Stderr, "err ")
		log.Print("log")
	case "flood":
		fmt.Print(strings.Repeat("x", outputMax+1))
	}
	return map[string]any{"got": params}, nil
}

func post(t *testing.T, body string) (int, response) {
	t.Helper()
	recorder := httptest.NewRecorder()
	newServer(handler).ServeHTTP(recorder, httptest.NewRequest("POST", "/invoke", strings.NewReader(body)))
	var answer response
	if recorder.Code == http.StatusOK {
		if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil {
			t.Fatalf("%q: %v", recorder.Body, err)
		}
	}
	return recorder.Code, answer
}

func TestWhatIsNoRequestIsRefused(t *testing.T) {
	for _, body := range []string{"", "{", "[]", `{"Params":3}`} {
		if code, _ := post(t, body); code != http.StatusInternalServerError {
			t.Errorf("%q: status %d", body, code)
		}
	}
}

func TestErrorsAreToldInTheAnswer(t *testing.T) {
	for do, said := range map[string]string{
		"fail": "as you wished", "panic": "panic: oh no", "babble": "not JSON",
	} {
		code, answer := post(t, `{"Params":{"do":"`+do+`"},"ReturnOutput":true}`)
		isTold := strings.Contains(answer.Output, said) && strings.Contains(answer.Error, said)
		if code != http.StatusOK || answer.Success || answer.Result != "" || !isTold {
			t.Errorf("%s: %d %+v", do, code, answer)
		}
	}
}

func TestResultsAreJSON(t *testing.T) {
	for body, expected := range map[string]string{
		`{"Params":{"a":[1,"ü"]},"Handler":"x","Command":null}`: `{"got":{"a":[1,"ü"]}}`,
		`{"Params":null}`: `{"got":null}`,
		`{}`:              `{"got":null}`,
	} {
		if _, answer := post(t, body); !answer.Success || answer.Result != expected {
			t.Errorf("%s: %+v", body, answer)
		}
	}
}

func TestOutputIsCapturedWhenWanted(t *testing.T) {
	_, answer := post(t, `{"Params":{"do":"print"},"ReturnOutput":true}`)
	if !strings.HasPrefix(answer.Output, "out err ") || !strings.HasSuffix(answer.Output, "log\n") {
		t.Errorf("%+v", answer)
	}
	_, answer = post(t, `{"Params":{"do":"flood"},"ReturnOutput":true}`)
	if len(answer.Output) != outputMax+len(cut) || !answer.Success {
		t.Errorf("%d bytes", len(answer.Output))
	}
	_, answer = post(t, `{"Params":{},"ReturnOutput":false}`)
	if answer.Output != "" {
		t.Errorf("%+v", answer)
	}
}

func TestCallsAtTheSameTimeKeepTheirOutputApart(t *testing.T) {
	var calls sync.WaitGroup
	server := newServer(func(params map[string]any) (any, error) {
		fmt.Print(params["n"])
		return nil, nil
	})
	for n := 0; n < 20; n++ {
		n := n
		calls.Add(1)
		go func() {
			defer calls.Done()
			body := fmt.Sprintf(`{"Params":{"n":"<%d>"},"ReturnOutput":true}`, n)
			recorder := httptest.NewRecorder()
			server.ServeHTTP(recorder, httptest.NewRequest("POST", "/invoke", strings.NewReader(body)))
			var answer response
			err := json.Unmarshal(recorder.Body.Bytes(), &answer)
			if err != nil || answer.Output != fmt.Sprintf("<%d>", n) {
				t.Errorf("%d: %v %+v", n, err, answer)
			}
		}()
	}
	calls.Wait()
}
