package password

// Occupy takes a slot of h until the returned function is called.
func Occupy(h *Hasher) (release func()) {
	h.slots <- struct{}{}
	return func() { <-h.slots }
}

// Decode returns what a PHC string would cost.
func Decode(phc string) (memoryKiB, passes uint32, err error) {
	p, err := decode(phc)
	return p.memory, p.passes, err
}
