package operator

// DialAddress is what the client dials.
func (c Client) DialAddress() (network, dial string, err error) { return c.dialAddress() }
