define void @kernel(ptr %args, i64 %begin, i64 %end, i64 %thread) nounwind "min-legal-vector-width"="512" "prefer-vector-width"="512" "frame-pointer"="none" {
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
  %i11 = phi i64 [%begin, %entry], [%v134, %done108]
  %v12 = udiv i64 %v1, 8
  %v13 = mul nsw i64 %v12, 8
  %v14 = sub nsw i64 %v1, %v13
  %v15 = mul nsw i64 %v12, 8
  %v18 = icmp slt i64 0, %v15
  br i1 %v18, label %loop16, label %done17
loop16:
  %i19 = phi i64 [0, %loop8], [%v104, %done25]
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
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v82, ptr %v23, i32 4, <8 x i1> <i1 true, i1 true, i1 true, i1 true, i1 false, i1 false, i1 false, i1 false>)
  %v97 = getelementptr i8, ptr %v23, i64 16
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v84, ptr %v97, i32 4, <8 x i1> <i1 true, i1 true, i1 true, i1 true, i1 false, i1 false, i1 false, i1 false>)
  %v98 = getelementptr i8, ptr %v23, i64 32
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v86, ptr %v98, i32 4, <8 x i1> <i1 true, i1 true, i1 true, i1 true, i1 false, i1 false, i1 false, i1 false>)
  %v99 = getelementptr i8, ptr %v23, i64 48
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v88, ptr %v99, i32 4, <8 x i1> <i1 true, i1 true, i1 true, i1 true, i1 false, i1 false, i1 false, i1 false>)
  %v100 = getelementptr i8, ptr %v23, i64 64
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v90, ptr %v100, i32 4, <8 x i1> <i1 true, i1 true, i1 true, i1 true, i1 false, i1 false, i1 false, i1 false>)
  %v101 = getelementptr i8, ptr %v23, i64 80
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v92, ptr %v101, i32 4, <8 x i1> <i1 true, i1 true, i1 true, i1 true, i1 false, i1 false, i1 false, i1 false>)
  %v102 = getelementptr i8, ptr %v23, i64 96
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v94, ptr %v102, i32 4, <8 x i1> <i1 true, i1 true, i1 true, i1 true, i1 false, i1 false, i1 false, i1 false>)
  %v103 = getelementptr i8, ptr %v23, i64 112
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v96, ptr %v103, i32 4, <8 x i1> <i1 true, i1 true, i1 true, i1 true, i1 false, i1 false, i1 false, i1 false>)
  %v104 = add nsw i64 %i19, 8
  %v105 = icmp slt i64 %v104, %v15
  br i1 %v105, label %loop16, label %done17
done17:
  %v106 = add nsw i64 %v13, %v14
  %v109 = icmp slt i64 %v13, %v106
  br i1 %v109, label %loop107, label %done108
loop107:
  %i110 = phi i64 [%v13, %done17], [%v132, %done116]
  %v111 = mul nsw i64 %i110, 80
  %v112 = getelementptr i8, ptr %v3, i64 %v111
  %v113 = mul nsw i64 %i110, 16
  %v114 = getelementptr i8, ptr %v7, i64 %v113
  br label %loop115
loop115:
  %i117 = phi i64 [0, %loop107], [%v128, %loop115]
  %c118 = phi <8 x float> [splat (float 0x0000000000000000), %loop107], [%v127, %loop115]
  %v119 = mul nsw i64 %i117, 4
  %v120 = getelementptr i8, ptr %v112, i64 %v119
  %v121 = mul nsw i64 %i117, 32
  %v122 = getelementptr i8, ptr %v5, i64 %v121
  %v123 = load float, ptr %v120, align 4
  %v124 = insertelement <8 x float> poison, float %v123, i64 0
  %v125 = shufflevector <8 x float> %v124, <8 x float> poison, <8 x i32> zeroinitializer
  %v126 = load <8 x float>, ptr %v122, align 4
  %v127 = call <8 x float> @llvm.fmuladd.v8f32(<8 x float> %v125, <8 x float> %v126, <8 x float> %c118)
  %v128 = add nsw i64 %i117, 1
  %v129 = icmp slt i64 %v128, 20
  br i1 %v129, label %loop115, label %done116
done116:
  %v130 = fcmp olt <8 x float> %v127, splat (float 0x0000000000000000)
  %v131 = select <8 x i1> %v130, <8 x float> splat (float 0x0000000000000000), <8 x float> %v127
  call void @llvm.masked.store.v8f32.p0(<8 x float> %v131, ptr %v114, i32 4, <8 x i1> <i1 true, i1 true, i1 true, i1 true, i1 false, i1 false, i1 false, i1 false>)
  %v132 = add nsw i64 %i110, 1
  %v133 = icmp slt i64 %v132, %v106
  br i1 %v133, label %loop107, label %done108
done108:
  %v134 = add nsw i64 %i11, 1
  %v135 = icmp slt i64 %v134, %end
  br i1 %v135, label %loop8, label %done9
done9:
  ret void
}
declare <8 x float> @llvm.fmuladd.v8f32(<8 x float>, <8 x float>, <8 x float>)
declare void @llvm.masked.store.v8f32.p0(<8 x float>, ptr, i32, <8 x i1>)
