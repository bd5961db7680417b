200
{"stream":"told\n"}
{"error":"The command '/bin/sh -c echo told; exit 6' returned a non-zero code: 6","errorDetail":{"code":6,"message":"The command '/bin/sh -c echo told; exit 6' returned a non-zero code: 6"}}
