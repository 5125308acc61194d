package diskimage

import (
	"bufio"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory of a decoder: what `zstd --long` (27) needs.
const maxWindow = 128 << 20

// openZstd decodes one frame (RFC 8878, 3.1.1). Its header must have the content
// size, so that an image that is too large is refused before the first write.
func openZstd(r io.Reader) (int64, io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, 1<<20)
	size, err := zstdSize(in)
	if err != nil {
		return 0, nil, err
	}
	dec, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return size, dec.IOReadCloser(), nil
}

func zstdSize(in *bufio.Reader) (int64, error) {
	head, err := in.Peek(zstd.HeaderMaxSize)
	if err != nil && err != io.EOF {
		return 0, err
	}
	var h zstd.Header
	if err := h.Decode(head); err != nil {
		return 0, fmt.Errorf("%w: zstd: %w", ErrFormat, err)
	}
	if h.Skippable || !h.HasFCS {
		return 0, fmt.Errorf("%w: the zstd stream does not begin with its size; make it with `zstd FILE`, not through a pipe and not with pzstd", ErrFormat)
	}
	if h.WindowSize > maxWindow && !h.SingleSegment {
		return 0, fmt.Errorf("%w: the zstd stream wants a window of %d bytes, the limit is %d; make it with `zstd`, without --ultra or --long above 27", ErrFormat, h.WindowSize, maxWindow)
	}
	if h.FrameContentSize > math.MaxInt64 {
		return 0, fmt.Errorf("%w: the zstd stream says it holds %d bytes", ErrFormat, h.FrameContentSize)
	}
	return int64(h.FrameContentSize), nil
}
