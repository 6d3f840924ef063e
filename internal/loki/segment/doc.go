// Package segment is a log of frames on disk: one writer appends, one reader takes
// frames in order and acknowledges them, and what is acknowledged is deleted. It
// is readable after a crash of any kind. This comment is the manual of its format.
//
// # Files
//
// A folder (mode 0700) holds one log. Its files (mode 0600) are
//
//	<16 hexadecimal digits>.log   a segment; the digits are its number
//	position                      what was given out and what was acknowledged
//
// Anything else is left alone, and so is a file that is not a regular one. All
// numbers are little endian. Checksums are CRC-32C (Castagnoli).
//
// # Segments
//
// Segments are read in the order of their numbers, which may have gaps. A segment
// is frames, one after the other from offset 0 on. A frame is a header of 36 bytes
// and its payload:
//
//	 0  magic FF 54 47 31 (FF "TG1": the 1 is the version of the format)
//	 4  uint32 length of the payload, at most 16 MiB
//	 8  uint32 lines in the payload
//	12  uint32 checksum of the payload
//	16  int64  time of the oldest line, in ns since 1970
//	24  int64  time of the newest line
//	32  uint32 checksum of: uint64 number of the segment, uint64 offset of this
//	           frame in it, bytes 0 to 31 of this header
//
// A frame is therefore good only in its place: what an old block of the disk or
// the text of a line looks like does not matter. (UTF-8 text holds no FF either.)
//
// A segment is only ever appended to, by the process that made it, one write(2) a
// frame. A process that opens a log starts a new segment with its first frame. Its
// number is above those of all segments and of the position, so that an offset
// never means another frame than it meant before. A segment is deleted when all
// of it is acknowledged.
//
// # Damage
//
// With a bad header, or one whose payload would end beyond the file, the reader
// goes to the next magic. With a good header and a bad payload it goes to the end
// of the frame. What is skipped is counted ([Stats].Corrupt). What follows the last
// good frame of the last segment is an Append that a crash cut short: it is cut
// off, and counted apart ([Stats].Torn).
//
// # Position
//
// The position file has two slots of 48 bytes, at 0 and at 4096:
//
//	 0  magic FF 54 50 31 (FF "TP1")
//	 4  uint32 checksum of bytes 8 to 47
//	 8  uint64 sequence
//	16  uint64 segment, uint64 offset: all frames before are acknowledged
//	32  uint64 segment, uint64 offset: no frame from here on was given out
//
// They are written in turn, the one with sequence n at 4096 × (n mod 2), and the
// good slot with the higher sequence counts: a torn write leaves the other one.
// Numbers above 2^62 are not good. A place need not exist: it means the first frame
// that is not before it. Without a good slot nothing is acknowledged and all
// frames count as given out.
//
// A place is written before its frames are given out and when they are
// acknowledged, so that after the death of a process the lines between the two
// places are exactly those that can be delivered twice ([Stats].Resent). After a
// power failure this holds as of the last [Log.Sync].
//
// # Hardening
//
// Reading takes time linear in the size of the files, whatever they hold: each
// byte is looked at a bounded number of times. It takes memory for 512 KiB or one
// frame at a time when a log is opened, and for one batch or one frame in
// [Log.Next], never more than a file is long. There is no index in memory: only
// totals of each segment. No file stays open between calls, so that thousands of logs cost
// no descriptors and a folder that is deleted or replaced is noticed. The log takes
// no lock: two processes in one folder destroy each other's lines.
package segment
