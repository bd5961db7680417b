FROM busybox
ENV A="a b" B='c d' C=e\ f G=h"i j"k L='$x' M="\$x" N=a\tb O="a\tb"
