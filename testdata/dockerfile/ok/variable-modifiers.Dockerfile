FROM busybox
ENV FOO=a/b.tar.gz EMPTY=
LABEL 1=${FOO#*/} 2=${FOO##*.} 3=${FOO%.*} 4=${FOO%%.*} 5=${FOO/a/x} 6=${FOO//a/x}
LABEL 7=${EMPTY:-d} 8=${EMPTY-d} 9=${FOO:+s} 10=${EMPTY:+s} 11=${EMPTY+s} 12=${NOPE:-${FOO}}
LABEL 13=${FOO:?must} 14=$1 15=$. 16=a$
