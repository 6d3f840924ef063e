package tenant

// What the black-box tests see of the inside.
var (
	EncodeCursor = encodeCursor
	DecodeCursor = decodeCursor
	ParseID      = parseID
	Printable    = printable
)
