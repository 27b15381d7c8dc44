"""Pictures of pages, small enough to be kept beside the documentation."""

import base64
import struct
import zlib
from pathlib import Path

from playwright.sync_api import FloatRect, Page

from browser.watched import Window

TALLEST = 1600
"""CSS pixels of a page that a picture shows at most."""

# Text in grey steps on a few grounds: most pages have hardly more colours than a palette holds. Where one has
# more, those that differ only in the last bits become one, in as few bits as it takes.
_TO_PALETTE = """
async (png) => {
  const image = new Image();
  image.src = "data:image/png;base64," + png;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer);
  const counts = new Map();
  for (const pixel of pixels) counts.set(pixel, (counts.get(pixel) ?? 0) + 1);
  const common = [...counts].sort((a, b) => b[1] - a[1]).map(([colour]) => colour);
  let kept, index;
  for (let bits = 0; bits === 0 || kept.length > 256; bits++) {
    const mask = 0x010101 * (255 >> bits << bits & 255);
    kept = [], index = new Map();
    const buckets = new Map();
    for (const colour of common) {
      const bucket = colour & mask;
      if (!buckets.has(bucket)) buckets.set(bucket, kept.push(colour) - 1);
      index.set(colour, buckets.get(bucket));
    }
  }
  const indexed = Uint8Array.from(pixels, (pixel) => index.get(pixel));
  let text = "";
  for (let at = 0; at < indexed.length; at += 32768) {
    text += String.fromCharCode(...indexed.subarray(at, at + 32768));
  }
  const palette = kept.flatMap((colour) => [colour & 255, colour >> 8 & 255, colour >> 16 & 255]);
  return { width: image.width, height: image.height, palette, indexed: btoa(text) };
}
"""


class Pictures:
    """Takes pictures into a folder."""

    def __init__(self, folder: Path, workshop: Page) -> None:
        """`workshop` is an empty page, in which pictures are made small."""
        self._folder = folder
        self._workshop = workshop

    def take(self, window: Window, name: str) -> Path:
        """The page from its top as it is now, as `name`.png; an older one is replaced."""
        page = window.page
        size = page.viewport_size
        assert size is not None
        height = int(page.evaluate("document.documentElement.scrollHeight"))
        shown = max(size["height"], min(height, TALLEST))
        clip = FloatRect(x=0, y=0, width=size["width"], height=shown)
        # A window as high as the picture: to draw the whole of a long page takes minutes.
        page.set_viewport_size({"width": size["width"], "height": shown})
        png = page.screenshot(clip=clip, scale="css", animations="disabled")
        page.set_viewport_size(size)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.png"
        path.write_bytes(self._small(png))
        return path

    def _small(self, png: bytes) -> bytes:
        found = self._workshop.evaluate(_TO_PALETTE, base64.b64encode(png).decode())
        return _png(
            found["width"], found["height"], bytes(found["palette"]), base64.b64decode(found["indexed"])
        )


def _png(width: int, height: int, palette: bytes, indexed: bytes) -> bytes:
    """A PNG of eight bits a pixel, rows unfiltered, which suits flat colours."""
    rows = b"".join(b"\0" + indexed[start : start + width] for start in range(0, width * height, width))
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", head), (b"PLTE", palette), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
