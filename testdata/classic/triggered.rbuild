200
{"stream":"Step 1/3 : FROM trigger"}
{"stream":"\n"}
{"stream":" ---> SHORT\n"}
{"stream":"Step 2/3 : ONBUILD RUN echo triggered"}
{"stream":"\n"}
{"stream":"triggered\n"}
{"stream":" ---> SHORT\n"}
{"stream":"Step 3/3 : CMD [\"x\"]"}
{"stream":"\n"}
{"stream":" ---> SHORT\n"}
{"aux":{"ID":"sha256:LONG"}}
{"stream":"Successfully built SHORT\n"}
