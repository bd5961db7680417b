FROM busybox
ADD --checksum=sha256:00 a /
ADD --checksum=x https://e.com/a https://e.com/b /
ADD --checksum=md5:1 https://e.com/a /
