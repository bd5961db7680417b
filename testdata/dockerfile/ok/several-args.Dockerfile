FROM busybox
ARG A B=1 C="two words" D='x y'
RUN echo
