//go:build wasip1

// Command large is a guest of some 10 MB: it says what a request's body is, in whichever of many formats X-Inspect names,
// and all of their packages are in it. Requests without that header pass.
package main

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/asn1"
	"encoding/csv"
	"encoding/gob"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"fmt"
	"go/format"
	"go/parser"
	"go/token"
	"image"
	_ "image/gif"
	_ "image/jpeg"
	_ "image/png"
	"io"
	"log/slog"
	"math/big"
	"mime/multipart"
	"net/http"
	"net/http/httputil"
	"net/mail"
	"regexp"
	"strings"

	"ngx-http-wasm-handler/tests/guests/go/httpwasm"
)

var formats = map[string]func(body []byte) (string, error){
	"archive":     archive,
	"certificate": certificate,
	"csv": func(body []byte) (string, error) {
		rows, err := csv.NewReader(bytes.NewReader(body)).ReadAll()
		return fmt.Sprintf("%d rows", len(rows)), err
	},
	"go":   source,
	"http": message,
	"image": func(body []byte) (string, error) {
		config, kind, err := image.DecodeConfig(bytes.NewReader(body))
		return fmt.Sprintf("%s, %d by %d", kind, config.Width, config.Height), err
	},
	"mail": func(body []byte) (string, error) {
		m, err := mail.ReadMessage(bytes.NewReader(body))
		if err != nil {
			return "", err
		}
		part, err := multipart.NewReader(m.Body, "part").NextPart()
		return fmt.Sprint(m.Header, part), err
	},
	"pattern": func(body []byte) (string, error) {
		pattern, err := regexp.Compile(string(body))
		return fmt.Sprint(pattern), err
	},
	"value": value,
}

func init() {
	httpwasm.HandleRequest = func() (bool, uint32) {
		name := httpwasm.Header(httpwasm.Request, "x-inspect")
		inspect := formats[name]
		if inspect == nil {
			return true, 0
		}
		said, err := inspect(httpwasm.Body(httpwasm.Request))
		if err != nil {
			httpwasm.SetStatus(422)
			said = err.Error()
		}
		var line bytes.Buffer
		slog.New(slog.NewJSONHandler(&line, nil)).Info(said, "format", name)
		httpwasm.WriteBody(httpwasm.Response, line.Bytes())

		return false, 0
	}
}

func archive(body []byte) (string, error) {
	var names []string
	if files, err := zip.NewReader(bytes.NewReader(body), int64(len(body))); err == nil {
		for _, file := range files.File {
			names = append(names, file.Name)
		}
		return strings.Join(names, " "), nil
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	files := tar.NewReader(unzipped)
	for {
		file, err := files.Next()
		if err == io.EOF {
			return strings.Join(names, " "), nil
		}
		if err != nil {
			return "", err
		}
		names = append(names, file.Name)
	}
}

func certificate(body []byte) (string, error) {
	block, _ := pem.Decode(body)
	if block == nil {
		return "", fmt.Errorf("no PEM block")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	chains, err := cert.Verify(x509.VerifyOptions{Roots: x509.NewCertPool()})

	return fmt.Sprintf("%s, serial number %s, %d chains, %v", cert.Subject, cert.SerialNumber, len(chains), err), nil
}

func source(body []byte) (string, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "body.go", body, parser.ParseComments)
	if err != nil {
		return "", err
	}
	pretty, err := format.Source(body)

	return fmt.Sprintf("package %s, %d bytes formatted", file.Name.Name, len(pretty)), err
}

func message(body []byte) (string, error) {
	in := bufio.NewReader(bytes.NewReader(body))
	if request, err := http.ReadRequest(in); err == nil {
		dump, err := httputil.DumpRequest(request, true)
		return string(dump), err
	}
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(body)), nil)
	if err != nil {
		return "", err
	}

	return response.Status, response.Body.Close()
}

func value(body []byte) (string, error) {
	var v any
	if err := json.Unmarshal(body, &v); err == nil {
		return fmt.Sprintf("JSON, %T", v), nil
	}
	var element struct{ XMLName xml.Name }
	if err := xml.Unmarshal(body, &element); err == nil {
		return "XML, " + element.XMLName.Local, nil
	}
	number := new(big.Int)
	if rest, err := asn1.Unmarshal(body, &number); err == nil {
		return fmt.Sprintf("ASN.1, %s, %d bytes after it", number, len(rest)), nil
	}
	var names map[string]string
	err := gob.NewDecoder(bytes.NewReader(body)).Decode(&names)

	return fmt.Sprintf("gob, %d names", len(names)), err
}

func main() {}
