200
{"stream":"Step 1/2 : FROM busybox"}
{"stream":"\n"}
{"stream":" ---> SHORT\n"}
{"stream":"Step 2/2 : RUN [\"/none\"]"}
{"stream":"\n"}
{"stream":" ---> Running in SHORT\n"}
{"error":"The command '/none' returned a non-zero code: 127","errorDetail":{"code":127,"message":"The command '/none' returned a non-zero code: 127"}}
