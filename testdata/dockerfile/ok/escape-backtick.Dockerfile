# escape=`
FROM busybox
RUN echo `
  c:\
ENV A="x`"y" B=a`$b
COPY a `
  /b
