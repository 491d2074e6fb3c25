package main

import (
	"strings"
	"testing"
)

func TestCount(t *testing.T) {
	res, err := read(strings.NewReader(`{"Action":"run","Test":"TestTCK/HTTP/1.1/get_method/GET"}
{"Action":"pass","Test":"TestTCK/HTTP/1.1/get_method/GET"}
{"Action":"fail","Test":"TestTCK/HTTP/1.1/set_uri/query"}
{"Action":"skip","Test":"TestTCK/HTTP/1.1/read_body/request/empty"}
{"Action":"pass","Test":"TestTCK/HTTP/2.0/get_method/GET"}
{"Action":"fail","Test":"TestTCK/HTTP/1.1"}
{"Action":"pass","Test":"TestReferenceHost/HTTP/1.1/get_method/GET"}
not json`))
	if err != nil {
		t.Fatal(err)
	}

	if passed, failed := res.count("TestTCK/HTTP/1.1/"); passed != 1 || failed != 1 {
		t.Errorf("%d passed, %d failed, expected 1 and 1", passed, failed)
	}
	if have := res.output.String(); have != "not json" {
		t.Errorf("output is %q", have)
	}
}
