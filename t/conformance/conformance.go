package conformance

import (
	"slices"
	"strconv"
)

func count(n int) string { return strconv.Itoa(n) }

// Cases are all of them.
func Cases() []Case {
	return slices.Concat(
		getterCases(), uriCases(), headerCases(), bodyCases(), trailerCases(), lifecycleCases(), phaseCases(),
	)
}
