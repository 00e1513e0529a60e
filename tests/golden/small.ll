define void @kernel(ptr %args, i64 %begin, i64 %end, i64 %thread) nounwind "min-legal-vector-width"="512" "prefer-vector-width"="512" "frame-pointer"="none" "target-cpu"="x86-64-v3" "tune-cpu"="x86-64-v3" "target-features"="" {
entry:
  %v1 = load i64, ptr %args, align 8
  %v2 = getelementptr i8, ptr %args, i64 16
  %v3 = load ptr, ptr %v2, align 8
  %v4 = getelementptr i8, ptr %args, i64 24
  %v5 = load ptr, ptr %v4, align 8
  %v6 = getelementptr i8, ptr %args, i64 32
  %v7 = load ptr, ptr %v6, align 8
  %v10 = icmp slt i64 %begin, %end
  br i1 %v10, label %loop8, label %done9
loop8:
  %i11 = phi i64 [%begin, %entry], [%v296, %done245]
  %v12 = udiv i64 %v1, 8
  %v13 = mul nsw i64 %v12, 8
  %v14 = sub nsw i64 %v1, %v13
  %v15 = mul nsw i64 %v12, 8
  %v18 = icmp slt i64 0, %v15
  br i1 %v18, label %loop16, label %done17
loop16:
  %i19 = phi i64 [0, %loop8], [%v241, %done25]
  %v20 = mul nsw i64 %i19, 80
  %v21 = getelementptr i8, ptr %v3, i64 %v20
  %v22 = mul nsw i64 %i19, 16
  %v23 = getelementptr i8, ptr %v7, i64 %v22
  br label %loop24
loop24:
  %i26 = phi i64 [0, %loop16], [%v208, %loop24]
  %c27 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v172, %loop24]
  %c28 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v177, %loop24]
  %c29 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v182, %loop24]
  %c30 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v187, %loop24]
  %c31 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v192, %loop24]
  %c32 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v197, %loop24]
  %c33 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v202, %loop24]
  %c34 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v207, %loop24]
  %v35 = mul nsw i64 %i26, 4
  %v36 = getelementptr i8, ptr %v21, i64 %v35
  %v37 = mul nsw i64 %i26, 32
  %v38 = getelementptr i8, ptr %v5, i64 %v37
  %v39 = load float, ptr %v36, align 4
  %v40 = insertelement <8 x float> poison, float %v39, i64 0
  %v41 = shufflevector <8 x float> %v40, <8 x float> poison, <8 x i32> zeroinitializer
  %v42 = load <8 x float>, ptr %v38, align 4
  %v43 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v41, <8 x float> %v42, <8 x float> %c27)
  %v44 = getelementptr i8, ptr %v36, i64 80
  %v45 = load float, ptr %v44, align 4
  %v46 = insertelement <8 x float> poison, float %v45, i64 0
  %v47 = shufflevector <8 x float> %v46, <8 x float> poison, <8 x i32> zeroinitializer
  %v48 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v47, <8 x float> %v42, <8 x float> %c28)
  %v49 = getelementptr i8, ptr %v36, i64 160
  %v50 = load float, ptr %v49, align 4
  %v51 = insertelement <8 x float> poison, float %v50, i64 0
  %v52 = shufflevector <8 x float> %v51, <8 x float> poison, <8 x i32> zeroinitializer
  %v53 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v52, <8 x float> %v42, <8 x float> %c29)
  %v54 = getelementptr i8, ptr %v36, i64 240
  %v55 = load float, ptr %v54, align 4
  %v56 = insertelement <8 x float> poison, float %v55, i64 0
  %v57 = shufflevector <8 x float> %v56, <8 x float> poison, <8 x i32> zeroinitializer
  %v58 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v57, <8 x float> %v42, <8 x float> %c30)
  %v59 = getelementptr i8, ptr %v36, i64 320
  %v60 = load float, ptr %v59, align 4
  %v61 = insertelement <8 x float> poison, float %v60, i64 0
  %v62 = shufflevector <8 x float> %v61, <8 x float> poison, <8 x i32> zeroinitializer
  %v63 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v62, <8 x float> %v42, <8 x float> %c31)
  %v64 = getelementptr i8, ptr %v36, i64 400
  %v65 = load float, ptr %v64, align 4
  %v66 = insertelement <8 x float> poison, float %v65, i64 0
  %v67 = shufflevector <8 x float> %v66, <8 x float> poison, <8 x i32> zeroinitializer
  %v68 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v67, <8 x float> %v42, <8 x float> %c32)
  %v69 = getelementptr i8, ptr %v36, i64 480
  %v70 = load float, ptr %v69, align 4
  %v71 = insertelement <8 x float> poison, float %v70, i64 0
  %v72 = shufflevector <8 x float> %v71, <8 x float> poison, <8 x i32> zeroinitializer
  %v73 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v72, <8 x float> %v42, <8 x float> %c33)
  %v74 = getelementptr i8, ptr %v36, i64 560
  %v75 = load float, ptr %v74, align 4
  %v76 = insertelement <8 x float> poison, float %v75, i64 0
  %v77 = shufflevector <8 x float> %v76, <8 x float> poison, <8 x i32> zeroinitializer
  %v78 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v77, <8 x float> %v42, <8 x float> %c34)
  %v79 = call ptr asm "", "=r,0"(ptr %v38)
  %v80 = getelementptr i8, ptr %v36, i64 4
  %v81 = load float, ptr %v80, align 4
  %v82 = insertelement <8 x float> poison, float %v81, i64 0
  %v83 = shufflevector <8 x float> %v82, <8 x float> poison, <8 x i32> zeroinitializer
  %v84 = getelementptr i8, ptr %v79, i64 32
  %v85 = load <8 x float>, ptr %v84, align 4
  %v86 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v83, <8 x float> %v85, <8 x float> %v43)
  %v87 = getelementptr i8, ptr %v36, i64 84
  %v88 = load float, ptr %v87, align 4
  %v89 = insertelement <8 x float> poison, float %v88, i64 0
  %v90 = shufflevector <8 x float> %v89, <8 x float> poison, <8 x i32> zeroinitializer
  %v91 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v90, <8 x float> %v85, <8 x float> %v48)
  %v92 = getelementptr i8, ptr %v36, i64 164
  %v93 = load float, ptr %v92, align 4
  %v94 = insertelement <8 x float> poison, float %v93, i64 0
  %v95 = shufflevector <8 x float> %v94, <8 x float> poison, <8 x i32> zeroinitializer
  %v96 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v95, <8 x float> %v85, <8 x float> %v53)
  %v97 = getelementptr i8, ptr %v36, i64 244
  %v98 = load float, ptr %v97, align 4
  %v99 = insertelement <8 x float> poison, float %v98, i64 0
  %v100 = shufflevector <8 x float> %v99, <8 x float> poison, <8 x i32> zeroinitializer
  %v101 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v100, <8 x float> %v85, <8 x float> %v58)
  %v102 = getelementptr i8, ptr %v36, i64 324
  %v103 = load float, ptr %v102, align 4
  %v104 = insertelement <8 x float> poison, float %v103, i64 0
  %v105 = shufflevector <8 x float> %v104, <8 x float> poison, <8 x i32> zeroinitializer
  %v106 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v105, <8 x float> %v85, <8 x float> %v63)
  %v107 = getelementptr i8, ptr %v36, i64 404
  %v108 = load float, ptr %v107, align 4
  %v109 = insertelement <8 x float> poison, float %v108, i64 0
  %v110 = shufflevector <8 x float> %v109, <8 x float> poison, <8 x i32> zeroinitializer
  %v111 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v110, <8 x float> %v85, <8 x float> %v68)
  %v112 = getelementptr i8, ptr %v36, i64 484
  %v113 = load float, ptr %v112, align 4
  %v114 = insertelement <8 x float> poison, float %v113, i64 0
  %v115 = shufflevector <8 x float> %v114, <8 x float> poison, <8 x i32> zeroinitializer
  %v116 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v115, <8 x float> %v85, <8 x float> %v73)
  %v117 = getelementptr i8, ptr %v36, i64 564
  %v118 = load float, ptr %v117, align 4
  %v119 = insertelement <8 x float> poison, float %v118, i64 0
  %v120 = shufflevector <8 x float> %v119, <8 x float> poison, <8 x i32> zeroinitializer
  %v121 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v120, <8 x float> %v85, <8 x float> %v78)
  %v122 = call ptr asm "", "=r,0"(ptr %v38)
  %v123 = getelementptr i8, ptr %v36, i64 8
  %v124 = load float, ptr %v123, align 4
  %v125 = insertelement <8 x float> poison, float %v124, i64 0
  %v126 = shufflevector <8 x float> %v125, <8 x float> poison, <8 x i32> zeroinitializer
  %v127 = getelementptr i8, ptr %v122, i64 64
  %v128 = load <8 x float>, ptr %v127, align 4
  %v129 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v126, <8 x float> %v128, <8 x float> %v86)
  %v130 = getelementptr i8, ptr %v36, i64 88
  %v131 = load float, ptr %v130, align 4
  %v132 = insertelement <8 x float> poison, float %v131, i64 0
  %v133 = shufflevector <8 x float> %v132, <8 x float> poison, <8 x i32> zeroinitializer
  %v134 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v133, <8 x float> %v128, <8 x float> %v91)
  %v135 = getelementptr i8, ptr %v36, i64 168
  %v136 = load float, ptr %v135, align 4
  %v137 = insertelement <8 x float> poison, float %v136, i64 0
  %v138 = shufflevector <8 x float> %v137, <8 x float> poison, <8 x i32> zeroinitializer
  %v139 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v138, <8 x float> %v128, <8 x float> %v96)
  %v140 = getelementptr i8, ptr %v36, i64 248
  %v141 = load float, ptr %v140, align 4
  %v142 = insertelement <8 x float> poison, float %v141, i64 0
  %v143 = shufflevector <8 x float> %v142, <8 x float> poison, <8 x i32> zeroinitializer
  %v144 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v143, <8 x float> %v128, <8 x float> %v101)
  %v145 = getelementptr i8, ptr %v36, i64 328
  %v146 = load float, ptr %v145, align 4
  %v147 = insertelement <8 x float> poison, float %v146, i64 0
  %v148 = shufflevector <8 x float> %v147, <8 x float> poison, <8 x i32> zeroinitializer
  %v149 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v148, <8 x float> %v128, <8 x float> %v106)
  %v150 = getelementptr i8, ptr %v36, i64 408
  %v151 = load float, ptr %v150, align 4
  %v152 = insertelement <8 x float> poison, float %v151, i64 0
  %v153 = shufflevector <8 x float> %v152, <8 x float> poison, <8 x i32> zeroinitializer
  %v154 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v153, <8 x float> %v128, <8 x float> %v111)
  %v155 = getelementptr i8, ptr %v36, i64 488
  %v156 = load float, ptr %v155, align 4
  %v157 = insertelement <8 x float> poison, float %v156, i64 0
  %v158 = shufflevector <8 x float> %v157, <8 x float> poison, <8 x i32> zeroinitializer
  %v159 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v158, <8 x float> %v128, <8 x float> %v116)
  %v160 = getelementptr i8, ptr %v36, i64 568
  %v161 = load float, ptr %v160, align 4
  %v162 = insertelement <8 x float> poison, float %v161, i64 0
  %v163 = shufflevector <8 x float> %v162, <8 x float> poison, <8 x i32> zeroinitializer
  %v164 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v163, <8 x float> %v128, <8 x float> %v121)
  %v165 = call ptr asm "", "=r,0"(ptr %v38)
  %v166 = getelementptr i8, ptr %v36, i64 12
  %v167 = load float, ptr %v166, align 4
  %v168 = insertelement <8 x float> poison, float %v167, i64 0
  %v169 = shufflevector <8 x float> %v168, <8 x float> poison, <8 x i32> zeroinitializer
  %v170 = getelementptr i8, ptr %v165, i64 96
  %v171 = load <8 x float>, ptr %v170, align 4
  %v172 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v169, <8 x float> %v171, <8 x float> %v129)
  %v173 = getelementptr i8, ptr %v36, i64 92
  %v174 = load float, ptr %v173, align 4
  %v175 = insertelement <8 x float> poison, float %v174, i64 0
  %v176 = shufflevector <8 x float> %v175, <8 x float> poison, <8 x i32> zeroinitializer
  %v177 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v176, <8 x float> %v171, <8 x float> %v134)
  %v178 = getelementptr i8, ptr %v36, i64 172
  %v179 = load float, ptr %v178, align 4
  %v180 = insertelement <8 x float> poison, float %v179, i64 0
  %v181 = shufflevector <8 x float> %v180, <8 x float> poison, <8 x i32> zeroinitializer
  %v182 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v181, <8 x float> %v171, <8 x float> %v139)
  %v183 = getelementptr i8, ptr %v36, i64 252
  %v184 = load float, ptr %v183, align 4
  %v185 = insertelement <8 x float> poison, float %v184, i64 0
  %v186 = shufflevector <8 x float> %v185, <8 x float> poison, <8 x i32> zeroinitializer
  %v187 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v186, <8 x float> %v171, <8 x float> %v144)
  %v188 = getelementptr i8, ptr %v36, i64 332
  %v189 = load float, ptr %v188, align 4
  %v190 = insertelement <8 x float> poison, float %v189, i64 0
  %v191 = shufflevector <8 x float> %v190, <8 x float> poison, <8 x i32> zeroinitializer
  %v192 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v191, <8 x float> %v171, <8 x float> %v149)
  %v193 = getelementptr i8, ptr %v36, i64 412
  %v194 = load float, ptr %v193, align 4
  %v195 = insertelement <8 x float> poison, float %v194, i64 0
  %v196 = shufflevector <8 x float> %v195, <8 x float> poison, <8 x i32> zeroinitializer
  %v197 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v196, <8 x float> %v171, <8 x float> %v154)
  %v198 = getelementptr i8, ptr %v36, i64 492
  %v199 = load float, ptr %v198, align 4
  %v200 = insertelement <8 x float> poison, float %v199, i64 0
  %v201 = shufflevector <8 x float> %v200, <8 x float> poison, <8 x i32> zeroinitializer
  %v202 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v201, <8 x float> %v171, <8 x float> %v159)
  %v203 = getelementptr i8, ptr %v36, i64 572
  %v204 = load float, ptr %v203, align 4
  %v205 = insertelement <8 x float> poison, float %v204, i64 0
  %v206 = shufflevector <8 x float> %v205, <8 x float> poison, <8 x i32> zeroinitializer
  %v207 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v206, <8 x float> %v171, <8 x float> %v164)
  %v208 = add nsw i64 %i26, 4
  %v209 = icmp slt i64 %v208, 20
  br i1 %v209, label %loop24, label %done25
done25:
  %v210 = fcmp olt <8 x float> %v172, splat (float 0x0000000000000000)
  %v211 = select <8 x i1> %v210, <8 x float> splat (float 0x0000000000000000), <8 x float> %v172
  %v212 = fcmp olt <8 x float> %v177, splat (float 0x0000000000000000)
  %v213 = select <8 x i1> %v212, <8 x float> splat (float 0x0000000000000000), <8 x float> %v177
  %v214 = fcmp olt <8 x float> %v182, splat (float 0x0000000000000000)
  %v215 = select <8 x i1> %v214, <8 x float> splat (float 0x0000000000000000), <8 x float> %v182
  %v216 = fcmp olt <8 x float> %v187, splat (float 0x0000000000000000)
  %v217 = select <8 x i1> %v216, <8 x float> splat (float 0x0000000000000000), <8 x float> %v187
  %v218 = fcmp olt <8 x float> %v192, splat (float 0x0000000000000000)
  %v219 = select <8 x i1> %v218, <8 x float> splat (float 0x0000000000000000), <8 x float> %v192
  %v220 = fcmp olt <8 x float> %v197, splat (float 0x0000000000000000)
  %v221 = select <8 x i1> %v220, <8 x float> splat (float 0x0000000000000000), <8 x float> %v197
  %v222 = fcmp olt <8 x float> %v202, splat (float 0x0000000000000000)
  %v223 = select <8 x i1> %v222, <8 x float> splat (float 0x0000000000000000), <8 x float> %v202
  %v224 = fcmp olt <8 x float> %v207, splat (float 0x0000000000000000)
  %v225 = select <8 x i1> %v224, <8 x float> splat (float 0x0000000000000000), <8 x float> %v207
  %v226 = shufflevector <8 x float> %v211, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  store <4 x float> %v226, ptr %v23, align 4
  %v227 = shufflevector <8 x float> %v213, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v228 = getelementptr i8, ptr %v23, i64 16
  store <4 x float> %v227, ptr %v228, align 4
  %v229 = shufflevector <8 x float> %v215, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v230 = getelementptr i8, ptr %v23, i64 32
  store <4 x float> %v229, ptr %v230, align 4
  %v231 = shufflevector <8 x float> %v217, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v232 = getelementptr i8, ptr %v23, i64 48
  store <4 x float> %v231, ptr %v232, align 4
  %v233 = shufflevector <8 x float> %v219, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v234 = getelementptr i8, ptr %v23, i64 64
  store <4 x float> %v233, ptr %v234, align 4
  %v235 = shufflevector <8 x float> %v221, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v236 = getelementptr i8, ptr %v23, i64 80
  store <4 x float> %v235, ptr %v236, align 4
  %v237 = shufflevector <8 x float> %v223, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v238 = getelementptr i8, ptr %v23, i64 96
  store <4 x float> %v237, ptr %v238, align 4
  %v239 = shufflevector <8 x float> %v225, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v240 = getelementptr i8, ptr %v23, i64 112
  store <4 x float> %v239, ptr %v240, align 4
  %v241 = add nsw i64 %i19, 8
  %v242 = icmp slt i64 %v241, %v15
  br i1 %v242, label %loop16, label %done17
done17:
  %v243 = add nsw i64 %v13, %v14
  %v246 = icmp slt i64 %v13, %v243
  br i1 %v246, label %loop244, label %done245
loop244:
  %i247 = phi i64 [%v13, %done17], [%v294, %done253]
  %v248 = mul nsw i64 %i247, 80
  %v249 = getelementptr i8, ptr %v3, i64 %v248
  %v250 = mul nsw i64 %i247, 16
  %v251 = getelementptr i8, ptr %v7, i64 %v250
  br label %loop252
loop252:
  %i254 = phi i64 [0, %loop244], [%v289, %loop252]
  %c255 = phi <8 x float> [splat (float 0x0000000000000000), %loop244], [%v288, %loop252]
  %v256 = mul nsw i64 %i254, 4
  %v257 = getelementptr i8, ptr %v249, i64 %v256
  %v258 = mul nsw i64 %i254, 32
  %v259 = getelementptr i8, ptr %v5, i64 %v258
  %v260 = load float, ptr %v257, align 4
  %v261 = insertelement <8 x float> poison, float %v260, i64 0
  %v262 = shufflevector <8 x float> %v261, <8 x float> poison, <8 x i32> zeroinitializer
  %v263 = load <8 x float>, ptr %v259, align 4
  %v264 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v262, <8 x float> %v263, <8 x float> %c255)
  %v265 = call ptr asm "", "=r,0"(ptr %v259)
  %v266 = getelementptr i8, ptr %v257, i64 4
  %v267 = load float, ptr %v266, align 4
  %v268 = insertelement <8 x float> poison, float %v267, i64 0
  %v269 = shufflevector <8 x float> %v268, <8 x float> poison, <8 x i32> zeroinitializer
  %v270 = getelementptr i8, ptr %v265, i64 32
  %v271 = load <8 x float>, ptr %v270, align 4
  %v272 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v269, <8 x float> %v271, <8 x float> %v264)
  %v273 = call ptr asm "", "=r,0"(ptr %v259)
  %v274 = getelementptr i8, ptr %v257, i64 8
  %v275 = load float, ptr %v274, align 4
  %v276 = insertelement <8 x float> poison, float %v275, i64 0
  %v277 = shufflevector <8 x float> %v276, <8 x float> poison, <8 x i32> zeroinitializer
  %v278 = getelementptr i8, ptr %v273, i64 64
  %v279 = load <8 x float>, ptr %v278, align 4
  %v280 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v277, <8 x float> %v279, <8 x float> %v272)
  %v281 = call ptr asm "", "=r,0"(ptr %v259)
  %v282 = getelementptr i8, ptr %v257, i64 12
  %v283 = load float, ptr %v282, align 4
  %v284 = insertelement <8 x float> poison, float %v283, i64 0
  %v285 = shufflevector <8 x float> %v284, <8 x float> poison, <8 x i32> zeroinitializer
  %v286 = getelementptr i8, ptr %v281, i64 96
  %v287 = load <8 x float>, ptr %v286, align 4
  %v288 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v285, <8 x float> %v287, <8 x float> %v280)
  %v289 = add nsw i64 %i254, 4
  %v290 = icmp slt i64 %v289, 20
  br i1 %v290, label %loop252, label %done253
done253:
  %v291 = fcmp olt <8 x float> %v288, splat (float 0x0000000000000000)
  %v292 = select <8 x i1> %v291, <8 x float> splat (float 0x0000000000000000), <8 x float> %v288
  %v293 = shufflevector <8 x float> %v292, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  store <4 x float> %v293, ptr %v251, align 4
  %v294 = add nsw i64 %i247, 1
  %v295 = icmp slt i64 %v294, %v243
  br i1 %v295, label %loop244, label %done245
done245:
  %v296 = add nsw i64 %i11, 1
  %v297 = icmp slt i64 %v296, %end
  br i1 %v297, label %loop8, label %done9
done9:
  ret void
}
declare <8 x float> @llvm.fmuladd.v8f32(<8 x float>, <8 x float>, <8 x float>)
