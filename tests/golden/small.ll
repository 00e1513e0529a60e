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
  %i11 = phi i64 [%begin, %entry], [%v143, %done116]
  %v12 = udiv i64 %v1, 8
  %v13 = mul nsw i64 %v12, 8
  %v14 = sub nsw i64 %v1, %v13
  %v15 = mul nsw i64 %v12, 8
  %v18 = icmp slt i64 0, %v15
  br i1 %v18, label %loop16, label %done17
loop16:
  %i19 = phi i64 [0, %loop8], [%v112, %done25]
  %v20 = mul nsw i64 %i19, 80
  %v21 = getelementptr i8, ptr %v3, i64 %v20
  %v22 = mul nsw i64 %i19, 16
  %v23 = getelementptr i8, ptr %v7, i64 %v22
  br label %loop24
loop24:
  %i26 = phi i64 [0, %loop16], [%v79, %loop24]
  %c27 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v43, %loop24]
  %c28 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v48, %loop24]
  %c29 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v53, %loop24]
  %c30 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v58, %loop24]
  %c31 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v63, %loop24]
  %c32 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v68, %loop24]
  %c33 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v73, %loop24]
  %c34 = phi <8 x float> [splat (float 0x0000000000000000), %loop16], [%v78, %loop24]
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
  %v79 = add nsw i64 %i26, 1
  %v80 = icmp slt i64 %v79, 20
  br i1 %v80, label %loop24, label %done25
done25:
  %v81 = fcmp olt <8 x float> %v43, splat (float 0x0000000000000000)
  %v82 = select <8 x i1> %v81, <8 x float> splat (float 0x0000000000000000), <8 x float> %v43
  %v83 = fcmp olt <8 x float> %v48, splat (float 0x0000000000000000)
  %v84 = select <8 x i1> %v83, <8 x float> splat (float 0x0000000000000000), <8 x float> %v48
  %v85 = fcmp olt <8 x float> %v53, splat (float 0x0000000000000000)
  %v86 = select <8 x i1> %v85, <8 x float> splat (float 0x0000000000000000), <8 x float> %v53
  %v87 = fcmp olt <8 x float> %v58, splat (float 0x0000000000000000)
  %v88 = select <8 x i1> %v87, <8 x float> splat (float 0x0000000000000000), <8 x float> %v58
  %v89 = fcmp olt <8 x float> %v63, splat (float 0x0000000000000000)
  %v90 = select <8 x i1> %v89, <8 x float> splat (float 0x0000000000000000), <8 x float> %v63
  %v91 = fcmp olt <8 x float> %v68, splat (float 0x0000000000000000)
  %v92 = select <8 x i1> %v91, <8 x float> splat (float 0x0000000000000000), <8 x float> %v68
  %v93 = fcmp olt <8 x float> %v73, splat (float 0x0000000000000000)
  %v94 = select <8 x i1> %v93, <8 x float> splat (float 0x0000000000000000), <8 x float> %v73
  %v95 = fcmp olt <8 x float> %v78, splat (float 0x0000000000000000)
  %v96 = select <8 x i1> %v95, <8 x float> splat (float 0x0000000000000000), <8 x float> %v78
  %v97 = shufflevector <8 x float> %v82, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  store <4 x float> %v97, ptr %v23, align 4
  %v98 = shufflevector <8 x float> %v84, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v99 = getelementptr i8, ptr %v23, i64 16
  store <4 x float> %v98, ptr %v99, align 4
  %v100 = shufflevector <8 x float> %v86, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v101 = getelementptr i8, ptr %v23, i64 32
  store <4 x float> %v100, ptr %v101, align 4
  %v102 = shufflevector <8 x float> %v88, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v103 = getelementptr i8, ptr %v23, i64 48
  store <4 x float> %v102, ptr %v103, align 4
  %v104 = shufflevector <8 x float> %v90, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v105 = getelementptr i8, ptr %v23, i64 64
  store <4 x float> %v104, ptr %v105, align 4
  %v106 = shufflevector <8 x float> %v92, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v107 = getelementptr i8, ptr %v23, i64 80
  store <4 x float> %v106, ptr %v107, align 4
  %v108 = shufflevector <8 x float> %v94, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v109 = getelementptr i8, ptr %v23, i64 96
  store <4 x float> %v108, ptr %v109, align 4
  %v110 = shufflevector <8 x float> %v96, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  %v111 = getelementptr i8, ptr %v23, i64 112
  store <4 x float> %v110, ptr %v111, align 4
  %v112 = add nsw i64 %i19, 8
  %v113 = icmp slt i64 %v112, %v15
  br i1 %v113, label %loop16, label %done17
done17:
  %v114 = add nsw i64 %v13, %v14
  %v117 = icmp slt i64 %v13, %v114
  br i1 %v117, label %loop115, label %done116
loop115:
  %i118 = phi i64 [%v13, %done17], [%v141, %done124]
  %v119 = mul nsw i64 %i118, 80
  %v120 = getelementptr i8, ptr %v3, i64 %v119
  %v121 = mul nsw i64 %i118, 16
  %v122 = getelementptr i8, ptr %v7, i64 %v121
  br label %loop123
loop123:
  %i125 = phi i64 [0, %loop115], [%v136, %loop123]
  %c126 = phi <8 x float> [splat (float 0x0000000000000000), %loop115], [%v135, %loop123]
  %v127 = mul nsw i64 %i125, 4
  %v128 = getelementptr i8, ptr %v120, i64 %v127
  %v129 = mul nsw i64 %i125, 32
  %v130 = getelementptr i8, ptr %v5, i64 %v129
  %v131 = load float, ptr %v128, align 4
  %v132 = insertelement <8 x float> poison, float %v131, i64 0
  %v133 = shufflevector <8 x float> %v132, <8 x float> poison, <8 x i32> zeroinitializer
  %v134 = load <8 x float>, ptr %v130, align 4
  %v135 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v133, <8 x float> %v134, <8 x float> %c126)
  %v136 = add nsw i64 %i125, 1
  %v137 = icmp slt i64 %v136, 20
  br i1 %v137, label %loop123, label %done124
done124:
  %v138 = fcmp olt <8 x float> %v135, splat (float 0x0000000000000000)
  %v139 = select <8 x i1> %v138, <8 x float> splat (float 0x0000000000000000), <8 x float> %v135
  %v140 = shufflevector <8 x float> %v139, <8 x float> poison, <4 x i32> <i32 0, i32 1, i32 2, i32 3>
  store <4 x float> %v140, ptr %v122, align 4
  %v141 = add nsw i64 %i118, 1
  %v142 = icmp slt i64 %v141, %v114
  br i1 %v142, label %loop115, label %done116
done116:
  %v143 = add nsw i64 %i11, 1
  %v144 = icmp slt i64 %v143, %end
  br i1 %v144, label %loop8, label %done9
done9:
  ret void
}
declare <8 x float> @llvm.fmuladd.v8f32(<8 x float>, <8 x float>, <8 x float>)
