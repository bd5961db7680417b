FROM scratch
ADD https://github.com/a/b.git#v1:dir /a
ADD --keep-git-dir git@github.com:a/b.git /b
ADD --checksum=0123456789abcdef0123456789abcdef01234567 https://github.com/a/b.git?tag=v2&submodules=false /c
