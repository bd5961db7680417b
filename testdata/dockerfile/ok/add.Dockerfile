FROM scratch
ADD rootfs.tar /
ADD --unpack=false a.tar /b/
ADD https://example.com/dir/file.tgz?x=1 /c/
ADD --unpack --checksum=sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb https://example.com/ /d/
ADD --chown=1:2 --chmod=644 a b /e/
