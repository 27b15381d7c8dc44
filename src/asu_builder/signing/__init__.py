"""How images are signed: keys, certificates and trailers as OpenWrt's own tools read them."""
